"""Clean examples in, poisoned training set and triggered test set out."""
