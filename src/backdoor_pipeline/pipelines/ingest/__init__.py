"""Raw texts in, checked examples out."""
