"""Find and remove backdoors in fine-tuned models."""

__version__ = "0.1.0"
