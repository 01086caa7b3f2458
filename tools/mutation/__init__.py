"""Mutation testing: change the code in one place; the mutant survives if the tests still pass.

make mutants SAMPLE=60           a random sample of each room; bench/mutants.json lists the survivors
"""
