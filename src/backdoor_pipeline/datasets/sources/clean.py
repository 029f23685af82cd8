"""The second source: rows that the defender knows to be clean and that are no dev rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.datasets.sources.source import DEFAULT_DATASET

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams

DEV = "dev"
"""What ``clean_source.dataset`` is where there is no second source."""


def second_source(params: SourceParams) -> SourceParams | None:
    """Returns what the group ``clean_source`` names; None if the clean rows are dev rows."""
    if params.dataset != DEV:
        return params
    if params.data is None:
        return None
    return params.model_copy(update={"dataset": DEFAULT_DATASET})  # its path tells the kind
