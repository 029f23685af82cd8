"""Wiring of the analyse stage: what a training was seen to say → frequencies, figures, page."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.analyse.nodes import (
    build_frequency_report,
    draw_frequencies,
    measure_frequencies,
    summarise_frequencies,
)

FIGURES = {name: name for name in ("frequency_map_figure", "frequency_curves_figure")}


def create_pipeline(**kwargs: object) -> Pipeline:
    """Part what the observed training said into low and high frequencies, and tell of them."""
    return Pipeline(
        [
            Node(
                measure_frequencies,
                [
                    "observations",
                    "examples",
                    "triggered_dev",
                    "base_model",
                    "params:fourier",
                    "params:model",
                    "params:compute",
                ],
                "frequencies",
                name="measure_frequencies",
            ),
            Node(
                summarise_frequencies,
                "frequencies",
                "frequency_summary",
                name="summarise_frequencies",
            ),
            Node(draw_frequencies, "frequencies", FIGURES, name="draw_frequencies"),
            Node(
                build_frequency_report,
                {"frequency_summary": "frequency_summary", "all_parameters": "parameters"}
                | FIGURES,
                "frequency_report",
                name="build_frequency_report",
            ),
        ],
        tags="analyse",
    )
