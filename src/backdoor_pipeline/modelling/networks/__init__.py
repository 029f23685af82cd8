"""Layers of our own. These modules import torch at once; import them where they are needed."""
