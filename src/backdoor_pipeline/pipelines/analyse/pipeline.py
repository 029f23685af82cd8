"""Wiring of the analyse stage: what a training was seen to say → frequencies, figures."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.analyse.nodes import draw_frequencies, measure_frequencies

FIGURES = ("frequency_map_figure", "frequency_curves_figure")


def create_pipeline(**kwargs: object) -> Pipeline:
    """Part what the observed training said into low and high frequencies, and draw them."""
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
                draw_frequencies,
                "frequencies",
                {name: name for name in FIGURES},
                name="draw_frequencies",
            ),
        ],
        tags="analyse",
    )
