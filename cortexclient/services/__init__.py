"""The groups of methods that a dataset client offers, independent of each other."""
