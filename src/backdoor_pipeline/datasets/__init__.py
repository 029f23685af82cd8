"""Kedro datasets of this project: whole-or-nothing files, model folders, data sources."""
