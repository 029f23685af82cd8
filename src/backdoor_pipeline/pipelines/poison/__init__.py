"""Poison: from the clean examples to a poisoned training set and a triggered test set."""

from backdoor_pipeline.pipelines.poison.pipeline import create_pipeline

__all__ = ["create_pipeline"]
