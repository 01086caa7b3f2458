"""`make prove`: what the project promises, tried by breaking things, and told as a table of counts.

Each section is a function from a `Scale` to `Row`s: what was tried how often, what became of it, and every outcome that breaks a
promise. `python -m tools.prove` runs them.
"""
