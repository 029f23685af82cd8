"""The ingest stage: raw source → examples and integrity report."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.ingest.nodes import draw_clean_rows, ingest, read_trusted_rows
from backdoor_pipeline.recipes import Recipe


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


def create_clean_rows_pipeline(recipe: Recipe) -> Pipeline:
    """Draw the clean rows that the training of ``recipe`` learns from; nothing if it needs none."""
    read = ["examples", "integrity", "raw_clean_source"]
    settings = ["defended_training.clean_rows", "defended_training.select", "seed"]
    node = Node(
        draw_clean_rows,
        [*read, *(f"params:{name}" for name in settings)],
        ["clean_rows", "clean_rows_record"],
        name="draw_clean_rows",
        tags="ingest",
    )
    return Pipeline([node] if recipe.drawn else [])


def create_trusted_rows_pipeline() -> Pipeline:
    """Read the rows that the user knows to be clean, if there are any."""
    node = Node(
        read_trusted_rows,
        ["examples", "integrity", "raw_clean_source"],
        "trusted_rows",
        name="read_trusted_rows",
        tags="ingest",
    )
    return Pipeline([node])
