"""Curves of a training, and the frequencies of what it learns."""
