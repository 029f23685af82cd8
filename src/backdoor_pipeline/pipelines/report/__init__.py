"""Metrics, suspects and predictions in, figures, an HTML page and a model card out."""
