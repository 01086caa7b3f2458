"""Do the tests notice? The code is changed on purpose in one place at a time; tests that still pass let a mutant live.

make mutants SAMPLE=60           a drawn sample of each room's mutants; the table, and bench/mutants.json with every survivor
"""
