"""`make prove`: try to break the project's promises, and count the outcomes in a table.

Each section is a function from a `Scale` to `Row`s: the number of trials, their outcomes, and every
outcome that breaks a promise. `python -m tools.prove` runs the sections.
"""
