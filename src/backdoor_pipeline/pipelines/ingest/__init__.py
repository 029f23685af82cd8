"""Raw source → examples."""

from backdoor_pipeline.pipelines.ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
