"""Victim and suspects in, purified model out."""
