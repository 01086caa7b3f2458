"""Tools that test the project: prove, fuzz, mutation, supply."""
