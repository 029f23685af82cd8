"""Nodes of the audit stage: evidence in a table, its effect on a model, repair, verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pandas as pd

from backdoor_pipeline import __version__
from backdoor_pipeline.intervals import rate
from backdoor_pipeline.modelling.bundle import ModelBundle, NoModel
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.prediction import embed
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import TrainingParams
from backdoor_pipeline.pipelines.audit import budget, evidence, figures, flips, page, verdict
from backdoor_pipeline.pipelines.audit.card import write_card
from backdoor_pipeline.pipelines.audit.classifier import of_classes
from backdoor_pipeline.pipelines.audit.contradicted_labels import Encode
from backdoor_pipeline.pipelines.audit.params import AuditParams
from backdoor_pipeline.pipelines.audit.power import detectable
from backdoor_pipeline.pipelines.audit.restored_rows import restored_rows
from backdoor_pipeline.pipelines.audit.suspicious_rows import suspicious_rows
from backdoor_pipeline.pipelines.audit.table_check import check_table
from backdoor_pipeline.pipelines.audit.training import accuracy_hits, train

logger = logging.getLogger(__name__)

NO_EVIDENCE = "there is no evidence"
NOT_ASKED = "audit.repair is false"
GIVEN, NONE_GIVEN = "audit.classifier is measured in its place", "audit.classifier is null"
NOT_MEASURED = "there was no time to measure it, or no held-out row to measure it on"
ACCURACY_ROWS = 5_000  # that it is measured on, at most
Record = dict[str, Any]
Which = Literal["audited", "repaired"]


def start_clock(budget_minutes: float | None) -> budget.Clock:
    """The limit of time, which begins to run: with every run anew, also one that goes on."""
    return budget.start(budget_minutes)


def gather_evidence(
    examples: pd.DataFrame,
    integrity: dict[str, Any],
    trusted_rows: pd.DataFrame | None,
    base_model: ModelBundle,
    params: AuditParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> dict[str, Any]:
    """What ``evidence.Evidence`` holds. All splits are looked at.

    Warnings say how many rows of the table are not, and which labels the trusted rows say nothing
    of.

    Raises:
        InputError: The columns are no texts and classes.
    """
    check_table(examples, integrity["label_names"], integrity["dataset"])
    if left_out := integrity["rows_left_out"]:
        logger.warning(
            "ingest.max_rows: %s rows of the table are not examined, and not in the cleaned table",
            f"{left_out:,}",
        )
    trusted = None if trusted_rows is None or trusted_rows.empty else trusted_rows

    encode = _encoder(base_model, model, compute)
    found = evidence.gather(examples, base_model, params, seed, trusted, encode)
    for untold in verdict.untold_labels(found.facts, integrity["label_names"]):
        logger.warning("clean_source: not tested: %s", untold)
    return found._asdict()


def find_rows(
    examples: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    contradicted: pd.DataFrame,
) -> pd.DataFrame:
    """The rows that the evidence points at, with reasons."""
    return suspicious_rows(examples, phrases, openings, contradicted)


def clean_table(
    examples: pd.DataFrame, suspicious: pd.DataFrame, integrity: dict[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """The examples with ``removed``, whether a row is suspicious, and the names of the labels."""
    removed = examples["example_id"].isin(suspicious["example_id"])
    return examples.assign(removed=removed), integrity["label_names"]


def restore_rows(
    examples: pd.DataFrame,
    suspicious: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    base_model: ModelBundle,
    audit: AuditParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    clock: budget.Clock,
) -> pd.DataFrame:
    """What the repaired model may learn of suspicious rows: see ``restored_rows``.

    None if there is no such model, or no time.
    """
    encode = _encoder(base_model, model, compute, clock.stop_after(budget.RESTORED))
    wanted = suspicious if audit.repair else suspicious.head(0)
    try:
        return restored_rows(examples, wanted, phrases, openings, encode, seed)
    except budget.OutOfTimeError:
        logger.warning("no time to restore rows: the repaired model is trained without")
        return restored_rows(examples, suspicious.head(0), phrases, openings, encode, seed)


def read_classifier(
    given: ModelBundle | None, integrity: dict[str, Any], model: ModelParams
) -> ModelBundle | NoModel:
    """The finished classifier that was given, its classes in the order of the table's.

    Raises:
        InputError: Its classes are others, or it reads shorter texts.
    """
    if given is None:
        return NoModel(NONE_GIVEN)
    return of_classes(given, integrity["label_names"], model.max_length)


def repaired_rows(
    examples: pd.DataFrame, suspicious: pd.DataFrame, restored: pd.DataFrame
) -> pd.DataFrame:
    """The examples with the restored rows in place of the suspicious ones."""
    kept = examples[~examples["example_id"].isin(suspicious["example_id"])]
    return pd.concat([kept, restored]).sort_values("example_id")


def train_model(
    examples: pd.DataFrame,
    suspicious: pd.DataFrame,
    restored: pd.DataFrame,
    integrity: dict[str, Any],
    base_model: ModelBundle,
    audit: AuditParams,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    clock: budget.Clock,
    which: Which,
) -> tuple[ModelBundle | NoModel, Record]:
    """A classifier of the table as it is (audited), or without its suspicious rows (repaired).

    In place of these the second has the ``restored`` ones. Without evidence there is none, and no
    first one if a finished classifier is given.
    """
    if which == "audited" and audit.classifier is not None:
        return NoModel(GIVEN), {"status": "given", "rows": 0, "epochs": 0}
    wanted = which == "audited" or audit.repair
    if suspicious.empty or not wanted:
        reason = NO_EVIDENCE if suspicious.empty else NOT_ASKED
        return NoModel(reason), {"status": "none", "rows": 0, "epochs": 0}
    rows = examples if which == "audited" else repaired_rows(examples, suspicious, restored)
    share = budget.AUDITED if which == "audited" and audit.repair else budget.REPAIRED
    settings = (params, model, compute, seed, clock, share, audit.least_steps, which)
    return train(rows, integrity["label_names"], base_model, *settings)


def measure_effects(
    examples: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    suspicious: pd.DataFrame,
    classifier: ModelBundle | NoModel,
    audited: ModelBundle | NoModel,
    repaired: ModelBundle | NoModel,
    audit: AuditParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    clock: budget.Clock,
) -> Record:
    """What the suspects do to both models, on rows of dev and test that are not suspicious.

    A ``classifier`` that was given takes the place of the first. What there is no time for is left
    out.

    Returns:
        ``accuracy`` of each model, by its name; ``triggers``: by label the suspects that flip most
        texts of the audited model together, and their rate with each model; ``alone``: the rate of
        each suspect with the audited model, by label, kind and phrase or opening.
    """
    held_out = examples[examples["split"] != "train"]
    held_out = held_out[~held_out["example_id"].isin(suspicious["example_id"])]
    first = classifier if isinstance(classifier, ModelBundle) else audited
    models = {"audited": first, "repaired": repaired}
    there = {name: made for name, made in models.items() if isinstance(made, ModelBundle)}
    effects: Record = {"accuracy": {}, "triggers": {}, "alone": {}}
    in_time = clock.stop_after(1.0)
    for label, suspects in _suspects(phrases, openings).items():
        others = held_out[held_out["label"] != label]
        texts = others.sample(min(audit.flip_rows, len(others)), random_state=seed)["text"]
        if texts.empty or "audited" not in there:
            continue
        settings = (model.max_length, compute, seed, in_time)
        try:
            trigger, share, alone = flips.grow_trigger(texts, suspects, there["audited"], *settings)
        except budget.OutOfTimeError:
            continue
        rates = {"audited": share._asdict()}
        if "repaired" in there:
            with suppress(budget.OutOfTimeError):
                hits = flips.flipped(texts, trigger, there["repaired"], *settings)
                rates["repaired"] = rate(hits)._asdict()
        written = [suspect.written for suspect in trigger]
        effects["triggers"][str(label)] = {"presumed_trigger": written, "flip_rates": rates}
        own: Record = effects["alone"].setdefault(str(label), {})
        for suspect, share_alone in alone.items():
            own.setdefault(suspect.kind, {})[suspect.key] = share_alone._asdict()
    some = held_out.sample(min(ACCURACY_ROWS, len(held_out)), random_state=seed)
    for name, made in there.items():
        if not some.empty:
            with suppress(budget.OutOfTimeError):
                hits = accuracy_hits(some, made, model.max_length, compute, in_time)
                effects["accuracy"][name] = rate(hits)._asdict()
    return effects


def conclude(
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    labels: pd.DataFrame,
    power: pd.DataFrame,
    facts: Record,
    suspicious: pd.DataFrame,
    restored: pd.DataFrame,
    effects: Record,
    audited: ModelBundle | NoModel,
    repaired: ModelBundle | NoModel,
    audited_record: Record,
    repaired_record: Record,
    integrity: dict[str, Any],
    params: AuditParams,
) -> Record:
    """The verdict, as ``verdict.json`` has it; see ``verdict.Verdict``."""
    names = integrity["label_names"]
    kinds = {"phrase": phrases, "opening": openings, "labels": labels}
    suspects, classes = [], []
    for label, name in enumerate(names):
        alone = effects["alone"].get(str(label), {})
        own = [
            verdict.Suspect(
                kind=kind,  # type: ignore[arg-type]
                written=found.written,
                label=name,
                texts=found.texts,
                hits=found.hits,
                q_value=found.q_value,
                flip_rate=alone.get(kind, {}).get(getattr(found, kind, None)),
            )
            for kind, table in kinds.items()
            for found in table[table["flagged"] & (table["label"] == label)].itertuples()
        ]
        if not own:
            continue
        trigger = effects["triggers"].get(str(label), {})
        strongest = min(one.q_value / facts["shares"][one.kind] for one in own)
        only_labels = all(one.kind == "labels" for one in own)
        suspects += own
        classes.append(
            verdict.SuspectedClass(
                label=name,
                p_value=min(1.0, strongest),
                suspicion=verdict.FALSE_LABELS if only_labels else "backdoor",
                presumed_trigger=trigger.get("presumed_trigger", []),
                flip_rate=trigger.get("flip_rates", {}).get("audited"),
            )
        )
    smallest = detectable(power)
    said = verdict.Verdict(
        schema_version=verdict.SCHEMA_VERSION,
        evidence=bool(classes),
        headline=verdict.headline(classes, params.risk, facts["p_value"], smallest),
        p_value=facts["p_value"],
        risk=params.risk,
        data=integrity["dataset"],
        files={name: file["sha256"] for name, file in integrity["files"].items()},
        rows=facts["rows"],
        repeated_rows=facts["repeated_rows"],
        rows_not_examined=integrity["rows_left_out"],
        trusted_rows=facts["trusted_rows"],
        labels_compared=[names[label] for label in facts["labels_compared"]],
        labels=names,
        classes=classes,
        suspects=suspects,
        suspicious_rows=len(suspicious),
        restored_rows=len(restored),
        power=smallest,
        audited_model=_model("audited", audited, audited_record, effects, names),
        repaired_model=_model("repaired", repaired, repaired_record, effects, names),
        not_tested=[
            *verdict.untold_rows(suspects),
            *verdict.untold_labels(facts, names),
            *verdict.NOT_TESTED,
        ],
    )
    return said.model_dump(mode="json")


def draw_figures(
    phrases: pd.DataFrame, power: pd.DataFrame, verdict: Record, integrity: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the page."""
    names = integrity["label_names"]
    return {
        "phrases_figure": figures.draw_phrases(phrases, names),
        "power_figure": figures.draw_power(power, names),
        "effects_figure": figures.draw_effects(verdict),
    }


def build_report(
    verdict: Record,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    suspicious: pd.DataFrame,
    integrity: dict[str, Any],
    all_parameters: dict[str, Any],
    phrases_figure: Any,
    power_figure: Any,
    effects_figure: Any,
) -> str:
    """The HTML page."""
    drawn = {"phrases": phrases_figure, "power": power_figure, "effects": effects_figure}
    return page.render(verdict, phrases, openings, suspicious, integrity, all_parameters, drawn)


def describe_repaired(verdict: Record, integrity: dict[str, Any], model: ModelParams) -> str:
    """The card of the repaired model."""
    return write_card(verdict, integrity, model.name, __version__)


def _encoder(
    base_model: ModelBundle,
    model: ModelParams,
    compute: ComputeParams,
    before_batch: Callable[[], object] | None = None,
) -> Encode:
    """Texts to their mean hidden states; ``before_batch`` as ``embed`` calls it."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        tokens = tokenise(texts, base_model.tokenizer, model.max_length)
        return embed(base_model, tokens, compute, before_batch)

    return encode


def _model(
    name: str, made: ModelBundle | NoModel, record: Record, effects: Record, labels: list[str]
) -> verdict.Model:
    triggers = effects["triggers"].items()
    measured = name in effects["accuracy"] or any(
        name in found["flip_rates"] for _, found in triggers
    )
    reason = "" if measured else NOT_MEASURED
    if isinstance(made, NoModel) and record["status"] == "none":
        reason = made.reason
    return verdict.Model(
        status=record["status"],
        reason=reason,
        accuracy=effects["accuracy"].get(name),
        flip_rates={
            labels[int(label)]: found["flip_rates"][name]
            for label, found in triggers
            if name in found["flip_rates"]
        },
    )


def _suspects(phrases: pd.DataFrame, openings: pd.DataFrame) -> dict[int, list[flips.Suspect]]:
    """What is put into texts, by label: phrases where they stand, openings before the text."""
    openings = openings.assign(position="start")
    found: dict[int, list[flips.Suspect]] = {}
    for kind, table in (("phrase", phrases), ("opening", openings)):
        for row in table[table["flagged"]].itertuples():
            key, label = str(getattr(row, kind)), int(row.label)
            suspect = flips.Suspect(kind, key, str(row.written), label, row.position)
            found.setdefault(label, []).append(suspect)
    return found
