"""Measured peaks of memory beside those that `scoreonce estimate` works out."""
