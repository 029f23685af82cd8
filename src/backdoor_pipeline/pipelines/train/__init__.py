"""Examples, poisoned or not, in; trained models out."""
