"""What tests the project rather than the product: promises by force, fuzzing, mutants, the supply chain."""
