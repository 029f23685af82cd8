"""Models and test sets in, per-example predictions and metrics out."""
