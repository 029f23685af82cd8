"""Wiring of the analyse stage.

What a training was seen to say → frequencies, figures, page; a victim and its poison → what it
says when it is healed from a share of that, figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from typing import Any

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.analyse.discovery import Record, Step
from backdoor_pipeline.pipelines.analyse.nodes import (
    build_frequency_report,
    draw_discovery,
    draw_frequencies,
    heal_by_share,
    measure_frequencies,
    plan_discovery,
    summarise_frequencies,
)
from backdoor_pipeline.recipes import Recipe

FIGURES = {name: name for name in ("frequency_map_figure", "frequency_curves_figure")}
DISCOVERED = (
    "victim_model",
    "poison_index",
    "poisoned_train",
    "examples",
    "triggered_test",
    *(f"params:{group}" for group in ("discovery", "model", "compute", "seed")),
)


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


def create_discovery_pipeline(
    recipe: Recipe,
    tell: Callable[..., tuple[Any, Record]],
    unlearners: Iterable[tuple[Callable[..., tuple[Any, Record]], tuple[str, ...], bool]],
) -> Pipeline:
    """Heal the victim by ``recipe`` from more and more of the poison, and draw what comes of it.

    In between, the evaluate stage makes the curve of the predictions.

    Args:
        recipe: Whose unlearners heal.
        tell: The detector ``discovered_share``.
        unlearners: The unlearners of ``recipe`` in its order: function, what it takes after the
            model, and whether it takes the public encoder of texts besides.
    """
    steps: list[Step] = []
    arguments = {_argument(name): name for name in DISCOVERED}
    for name, (function, inputs, from_base) in zip(recipe.unlearners, unlearners, strict=True):
        base = ("base_model",) if from_base and recipe.from_base else ()
        read = {_argument(name): name for name in (*inputs, *base)}
        steps.append(Step(name, function, tuple(read)))
        arguments |= read
    arguments.pop("suspects", None)  # which the node makes
    heal = partial(heal_by_share, tell=tell, unlearners=tuple(steps))
    plan = partial(plan_discovery, tell=tell)
    settings = ("poison.rate", "discovery", "discovered_share.ids", "seed")
    return Pipeline(
        [
            Node(
                update_wrapper(plan, plan_discovery),
                ["examples", *(f"params:{name}" for name in settings)],
                "discovery_plan",
                name="plan_discovery",
            ),
            Node(
                update_wrapper(heal, heal_by_share),
                arguments,
                ["discovery_predictions", "discovery_record"],
                name="heal_by_share",
            ),
            Node(
                draw_discovery,
                ["discovery_curve", "discovery_summary"],
                {"discovery_figure": "discovery_figure"},
                name="draw_discovery",
            ),
        ],
        tags="analyse",
    )


def _argument(name: str) -> str:
    """What a data set or parameter group is called as an argument."""
    return name.removeprefix("params:")
