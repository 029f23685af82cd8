"""MLflow (placeholder until wired)."""

from __future__ import annotations


class TrackingHooks:
    """Tracks."""
