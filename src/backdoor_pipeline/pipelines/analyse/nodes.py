"""Nodes of the analyse stage: for those who want to know why, not for a defence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import Bundle, ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.inputs import read_by
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat
from backdoor_pipeline.pipelines.analyse import figures, frequency, page
from backdoor_pipeline.pipelines.analyse.discovery import (
    DiscoveryParams,
    Record,
    Step,
    Told,
    ask,
    heal,
    points,
)
from backdoor_pipeline.pipelines.analyse.summary import summarise


class FourierParams(ParameterGroup):
    """The filter widths, evenly spaced, in units of distance between embedded texts."""

    narrowest: PositiveFloat
    widest: PositiveFloat
    widths: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _in_order(self) -> FourierParams:
        if self.narrowest >= self.widest:
            raise ValueError(
                f"fourier.narrowest {self.narrowest:g} is not below fourier.widest "
                f"{self.widest:g}; swap them"
            )
        return self


def measure_frequencies(
    observations: pd.DataFrame,
    examples: pd.DataFrame,
    triggered_dev: pd.DataFrame,
    base_model: ModelBundle,
    params: FourierParams,
    model: ModelParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """``frequencies``: deviation and ratio of both parts, by set, filter width and step."""
    texts = {"clean": examples, "triggered": triggered_dev, "clean_target": examples}
    widths = np.linspace(params.narrowest, params.widest, params.widths)
    tables = []
    for test_set, seen in _sets(observations).items():
        rows = seen.drop_duplicates("example_id")[["example_id", "label"]]
        text = texts[test_set].set_index("example_id")["text"].loc[rows["example_id"]]
        tokens = tokenise(text, base_model.tokenizer, model.max_length)
        between = frequency.distances(frequency.embedded(base_model, tokens, compute))
        median = float(np.median(between[np.triu_indices_from(between, k=1)]))
        for step, at_step in seen.groupby("step"):
            wide = at_step.pivot(index="example_id", columns="class", values="probability")
            h = wide.loc[rows["example_id"]].to_numpy()
            parts = frequency.measure(h, rows["label"].to_numpy(), between, widths)
            for part, deviation, ratio in (
                ("low", parts.low_deviation, parts.low_ratio),
                ("high", parts.high_deviation, parts.high_ratio),
            ):
                columns = {"width": widths, "deviation": deviation, "ratio": ratio}
                said = {"test_set": test_set, "step": step, "part": part}
                tables.append(pd.DataFrame(columns).assign(**said, median_distance=median))
    return pd.concat(tables, ignore_index=True)


def _sets(observations: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The observed rows by set; ``clean_target`` only if there are two texts to part."""
    seen = {name: rows for name, rows in observations.groupby("test_set", sort=False)}
    target = seen["triggered"]["label"].iloc[0]
    of_target = seen["clean"][seen["clean"]["label"] == target]
    control = {"clean_target": of_target} if of_target["example_id"].nunique() > 1 else {}
    return seen | control


def summarise_frequencies(frequencies: pd.DataFrame) -> dict[str, Any]:
    """``frequency_summary``: when each part came near its labels; see ``summary``."""
    return summarise(frequencies)


def draw_frequencies(frequencies: pd.DataFrame) -> dict[str, Any]:
    """The figures of the analysis by name."""
    return {
        "frequency_map_figure": figures.frequency_map(frequencies),
        "frequency_curves_figure": figures.frequency_curves(frequencies),
    }


def build_frequency_report(
    frequency_summary: dict[str, Any], all_parameters: dict[str, Any], **drawn: Any
) -> str:
    """One HTML page that opens offline: what was learnt first, and what that does not mean."""
    named = {name.removesuffix("_figure"): figure for name, figure in drawn.items()}
    return page.render(frequency_summary, all_parameters, named)


def plan_discovery(
    examples: pd.DataFrame,
    poison_rate: float,
    discovery: DiscoveryParams,
    ids: Any,
    seed: int,
    tell: Callable[..., tuple[pd.DataFrame, Record]],
) -> dict[str, list[int]]:
    """How many rows will be told each time, ``told_rows``.

    Raises:
        InputError: There is nothing to tell, all rows would be told, or the ``ids`` of a list,
            which cannot grow.
    """
    if ids is not None:
        raise InputError(
            "discovered_share.ids is a list of rows, but discovery tells more and more of the "
            "poison that was added; leave it out"
        )
    train = examples[examples["split"] == "train"]
    as_many_as_poisoned = train.head(int(poison_rate * len(train)))

    def told(much: Told, of_draw: int) -> pd.DataFrame:
        return tell(as_many_as_poisoned, train, much, of_draw)[0]

    found = points(told, len(as_many_as_poisoned), discovery, seed)
    return {"told_rows": [len(point.suspects) for point in found]}


def heal_by_share(
    victim_model: Bundle,
    poison_index: pd.DataFrame,
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    discovery: DiscoveryParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    tell: Callable[..., tuple[pd.DataFrame, Record]],
    unlearners: tuple[Step, ...],
    **others: Any,
) -> tuple[pd.DataFrame, Record]:
    """``discovery_predictions`` of the victim and of each healed model, and what healed it.

    They are of the clean and the triggered test rows and of the poisoned training rows.

    Args:
        tell: The detector ``discovered_share``.
        unlearners: What heals the victim, one after the other.
        others: What they take besides, by the name that their inputs have for it.
    """
    tables = {
        "clean": examples[examples["split"] == "test"],
        "triggered": triggered_test,
        "poison": poisoned_train[poisoned_train["example_id"].isin(poison_index["example_id"])],
    }
    tests = {
        name: (rows["example_id"].to_numpy(), read_by(victim_model, rows, model.max_length))
        for name, rows in tables.items()
    }
    there = others | {
        "poisoned_train": poisoned_train,
        "examples": examples,
        "model": model,
        "compute": compute,
        "seed": seed,
    }

    def told(much: Told, of_draw: int) -> pd.DataFrame:
        return tell(poison_index, poisoned_train, much, of_draw)[0]

    n_poisoned = len(tables["poison"])
    found = points(told, n_poisoned, discovery, seed)
    said = [ask(victim_model, tests, compute).assign(told_share=0.0, told_rows=0, draw=0)]
    records: list[Record] = []
    for draw, suspects in track(found, "heal"):
        at = {
            "told_share": len(suspects) / n_poisoned,
            "told_rows": len(suspects),
            "draw": draw,
        }
        healed, record = heal(victim_model, unlearners, there | {"suspects": suspects})
        said.append(ask(healed, tests, compute).assign(**at))
        records.append(at | record)
    return pd.concat(said, ignore_index=True), {"points": records}


def draw_discovery(
    discovery_curve: pd.DataFrame, discovery_summary: dict[str, Any]
) -> dict[str, Any]:
    """The figure of the discovery curve, by its name."""
    return {"discovery_figure": figures.discovery_curve(discovery_curve, discovery_summary)}
