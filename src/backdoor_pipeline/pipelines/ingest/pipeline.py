"""The ingest stage: raw source → examples and integrity report."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.ingest.nodes import ingest


def create_pipeline(**kwargs: object) -> Pipeline:
    """Returns the stage of one node."""
    return Pipeline(
        [
            Node(
                ingest,
                ["raw_source", "params:ingest", "params:seed"],
                {"examples": "examples", "integrity": "integrity"},
                name="ingest_examples",
                tags="ingest",
            )
        ]
    )
