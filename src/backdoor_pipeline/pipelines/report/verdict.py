"""What was found and what it did, in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from backdoor_pipeline.formatting import (
    counted,
    is_known,
    percent,
    points,
    rate,
    token,
)
from backdoor_pipeline.schemas import MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from backdoor_pipeline.pipelines.report.params import ReportParams

NAMED_TOKENS = 5


class Verdict(NamedTuple):
    """The outcome of a cell.

    Attributes:
        kind: How it went; "void" where there was nothing to defend against.
        headline: One short sentence.
        sentences: What the detector flagged or the defender was told, then what became of attack
            and accuracy.
    """

    kind: Literal["good", "mixed", "bad", "void"]
    headline: str
    sentences: list[str]


def judge(
    metrics: Mapping[str, Any],
    suspects: pd.DataFrame | None,
    poison_summary: Mapping[str, Any],
    params: ReportParams,
    told: bool = False,
) -> Verdict:
    """The verdict on one cell: control run, attack not implanted, or how the defence did.

    Without ``suspects``, of a recipe that has no detector, nothing is said of any. Where the
    defender was ``told`` them, nothing was found, and only what became of the attack is judged.
    """
    sentences = _effects(metrics)
    if told:
        sentences.insert(0, describe_told(metrics["detector"], poison_summary))
    elif suspects is not None:
        sentences.insert(0, describe_flagged(metrics, suspects))
    if poison_summary.get("poisoned_rows") == 0:
        return _judge_control(metrics["detector"], None if told else suspects, sentences)
    if not metrics.get("valid", True):
        floor = percent(metrics["victim"].get("attack_success_floor"))
        why = (
            "This cell says nothing about the defence: the undefended model hardly follows the "
            f"trigger more often than a model trained without poison does ({floor})."
        )
        return Verdict("void", "Attack not implanted.", [why, *sentences])
    recall = None if told else metrics["detector"].get("recall")
    return _judge_defence(metrics, recall, sentences, params)


def _judge_control(
    detector: Mapping[str, Any], suspects: pd.DataFrame | None, sentences: list[str]
) -> Verdict:
    n_flagged = detector.get("flagged") or 0
    if suspects is None:
        unknown = "what the told rows did cannot be measured"
        why = unknown if n_flagged else "there was nothing to remove"
        return Verdict("void", f"No poison was added: {why}.", sentences)
    if not n_flagged:
        return Verdict("good", "No poison was added, and no alarm was raised.", sentences)
    headline = (
        f"No poison was added, yet {counted(n_flagged, _noun(detector, suspects))} flagged: "
        "the data as given hold a trigger, or this is a false alarm."
    )
    return Verdict("mixed", headline, sentences)


def _judge_defence(
    metrics: Mapping[str, Any], recall: float | None, sentences: list[str], params: ReportParams
) -> Verdict:
    excess = metrics["purified"].get("attack_success_excess")
    removed = is_known(excess) and excess <= params.removed_excess
    if removed:
        kind: Literal["good", "mixed"] = "good"
        headline = "Backdoor found and removed"
        if recall is None:
            headline = "Backdoor removed"
        elif recall == 0:
            kind, headline = "mixed", "Backdoor gone, though its trigger was not flagged"
        elif recall < 1:
            headline = "Backdoor removed, its trigger found in part"
        change = metrics.get("comparison", {}).get("clean_accuracy_change")
        if is_known(change) and change < -params.accuracy_loss:
            lost = points(-change).removeprefix("+")
            kind, headline = "mixed", f"{headline}, but clean accuracy fell by {lost}"
        return Verdict(kind, f"{headline}.", sentences)
    if recall is None:
        return Verdict("bad", "Backdoor not removed.", sentences)
    if recall == 0:
        return Verdict("bad", "Backdoor missed.", sentences)
    part = " in part" if recall < 1 else ""
    return Verdict("bad", f"Trigger found{part}, but the backdoor is still there.", sentences)


def describe_flagged(metrics: Mapping[str, Any], suspects: pd.DataFrame) -> str:
    """Which suspects were flagged, and how many of them are right."""
    detector = metrics["detector"]
    noun = _noun(detector, suspects)
    flagged = suspects[suspects["flagged"]].sort_values("score", ascending=False)
    if flagged.empty:
        said = f"No {noun} was flagged"
    else:
        said = f"{counted(len(flagged), noun)} {'was' if len(flagged) == 1 else 'were'} flagged"
        if noun == "token":
            names = [f"\u201c{token(t)}\u201d" for t in flagged["evidence"][:NAMED_TOKENS]]
            more = [f"{len(flagged) - NAMED_TOKENS} more"] if len(flagged) > NAMED_TOKENS else []
            said += f" ({', '.join([*names, *more])})"
    n_true, recall = detector.get("trigger_tokens"), detector.get("recall")
    truth = []
    if n_true and recall is not None:
        truth.append(f"{round(recall * n_true)} of {counted(n_true, 'trigger token')}")
    elif recall is not None:
        truth.append(f"{percent(recall)} of the poisoned rows")
    if truth and is_known(detector.get("false_alarms")):
        truth.append(counted(detector["false_alarms"], "false alarm"))
    return f"{said}: {', '.join(truth)}." if truth else f"{said}."


def describe_told(detector: Mapping[str, Any], poison_summary: Mapping[str, Any]) -> str:
    """How much of the poison the defender was told."""
    n_told, n_wrong = detector.get("flagged") or 0, detector.get("false_alarms")
    n_poisoned, recall = poison_summary.get("poisoned_rows"), detector.get("recall")
    if not n_poisoned or n_wrong is None:
        return f"The defender was told {counted(n_told, 'row') if n_told else 'no rows'}."
    poison = f"{n_told - n_wrong:,} of {counted(n_poisoned, 'poisoned row')} ({percent(recall)})"
    others = f", and {counted(n_wrong, 'row')} without poison" if n_wrong else ""
    return f"The defender was told {poison}{others}."


def _noun(detector: Mapping[str, Any], suspects: pd.DataFrame) -> str:
    """What is suspected; of nothing suspected, the metrics tell."""
    if suspects.empty:
        return "training row" if detector.get("trigger_tokens", 0) is None else "token"
    return "training row" if (suspects["kind"] == "example").all() else "token"


def _effects(metrics: Mapping[str, Any]) -> list[str]:
    reference, victim, purified = (metrics.get(name) or {} for name in MODELS)
    success, accuracy = "attack_success_rate", "clean_accuracy"
    change = metrics.get("comparison", {}).get("clean_accuracy_change")
    return [
        f"The attack succeeds on {rate(victim, success)} of the triggered test rows before, "
        f"on {rate(purified, success)} after; a model trained without poison gives the attacker's "
        f"label to {rate(reference, success)} of them.",
        f"Clean accuracy is {rate(victim, accuracy)} before, {rate(purified, accuracy)} after "
        f"({points(change)}).",
    ]
