"""Training data and pretrained model in, suspects out."""
