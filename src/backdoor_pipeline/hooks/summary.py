"""The small table that a run prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.formatting import duration, number, percent, rate, share, size
from backdoor_pipeline.recipes import ALL

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = {"reference": "reference (as ingested)", "victim": "victim", "purified": "purified"}
FALSE_LABELS = "false labels"  # what a verdict calls labels that clean rows contradict
FIRST, OTHER = 24, 26  # widths of the columns, in characters


def summary_table(metrics: Mapping[str, Any], recipe: str) -> str:
    """Clean accuracy and attack success of the three models, the detection, and the cost.

    Of images also how much healed; of texts with two labels the attack success says as much.
    At most 12 lines of at most 100 characters, rates in per cent with 95 % intervals.
    """
    lines = [f"{recipe[: FIRST - 2]:<{FIRST}}{'clean accuracy':<{OTHER}}attack success"]
    for name, label in ROWS.items():
        model = metrics.get(name)
        accuracy, success = (rate(model, key) for key in ("clean_accuracy", "attack_success_rate"))
        lines.append(f"{label:<{FIRST}}{accuracy:<{OTHER}}{success}")
    made = ALL.get(recipe)
    if made and made.modality != "text":
        healed = rate(metrics.get("comparison"), "healed")
        lines.append(f"{'healed':<{FIRST}}{healed} of what the trigger spoils")
    if metrics.get("detector"):
        told = made is not None and made.is_told
        lines.append((_told if told else _detection)(metrics["detector"]))
    cost = metrics.get("cost") or {}
    lines.append(_cost(cost))
    if rows := cost.get("out_of_domain_rows"):
        lines.append(f"{'':<{FIRST}}of the clean rows, {number(rows)} are out of domain")
    if not metrics.get("valid", True):
        lines.append("attack not implanted: this cell is no test of a defence")
    return "\n".join(lines)


def _detection(detector: Mapping[str, Any]) -> str:
    parts = [f"flagged {number(detector.get('flagged'))}"]
    if detector.get("trigger_tokens"):
        parts.append(f"trigger recall {percent(detector.get('trigger_recall'))}")
    parts.append(f"trigger rank {number(detector.get('trigger_rank'))}")
    parts.append(f"false alarms {number(detector.get('false_alarms'))}")
    return f"{'detector':<{FIRST}}{', '.join(parts)}"


def _told(detector: Mapping[str, Any]) -> str:
    rows, share = number(detector.get("flagged")), percent(detector.get("recall"))
    return f"{'told':<{FIRST}}{rows} training rows, {share} of the poisoned ones"


def _cost(cost: Mapping[str, Any]) -> str:
    parts = [
        duration(cost.get("wall_seconds")),
        f"{number(round(cost['examples_per_second']))} examples/s in training"
        if cost.get("examples_per_second")
        else None,
        f"peak {size(cost.get('peak_memory_bytes'))}",
        f"clean rows used: {number(cost.get('clean_rows'))}",
    ]
    return f"{'cost':<{FIRST}}{', '.join(part for part in parts if part)}"


def verdict_lines(verdict: Mapping[str, Any]) -> str:
    """The verdict of an audit in a few lines: the sentence, the suspects, the models."""
    lines = [verdict["headline"]]
    texts = number(verdict["rows"])
    lines.append(f"{'audited table':<{FIRST}}{verdict['data']}, {texts} distinct texts")
    if left_out := verdict["rows_not_examined"]:
        rows = verdict["rows"] + verdict["repeated_rows"] + left_out
        lines.append(
            f"{'not examined':<{FIRST}}{left_out:,} of {rows:,} rows (ingest.max_rows), which are "
            "not in the cleaned table"
        )
    for found in verdict["classes"]:
        if found["suspicion"] == FALSE_LABELS:
            lines += _of_false_labels(verdict, found["label"])
            continue
        trigger = found["presumed_trigger"] or [
            one["written"]
            for one in verdict["suspects"]
            if one["label"] == found["label"] and one["kind"] != "labels"
        ]
        named = ", ".join(f"“{written}”" for written in trigger)
        lines.append(f"{'presumed trigger':<{FIRST}}{named} → {found['label']}")
        for name in ("audited", "repaired"):
            model = verdict[f"{name}_model"]
            flipped = model["flip_rates"].get(found["label"])
            if flipped:
                early = " (stopped early)" if model["status"] == "stopped" else ""
                flips = f"{share(flipped)} of other texts flip{early}"
                lines.append(
                    f"{name + ' model':<{FIRST}}{flips}, accuracy {share(model['accuracy'])}"
                )
            else:
                lines.append(f"{name + ' model':<{FIRST}}not measured: {model['reason']}")
    if verdict["evidence"]:
        lines.append(f"{'suspicious rows':<{FIRST}}{verdict['suspicious_rows']:,}")
    return "\n".join(lines)


def _of_false_labels(verdict: Mapping[str, Any], label: str) -> list[str]:
    """There is no trigger to put into texts: only how right the models are can be said."""
    rows = sum(one["hits"] for one in verdict["suspects"] if one["label"] == label)
    lines = [f"{FALSE_LABELS:<{FIRST}}{rows:,} texts of {label}, by the clean rows"]
    for name in ("audited", "repaired"):
        model = verdict[f"{name}_model"]
        accuracy = model["accuracy"]
        said = f"accuracy {share(accuracy)}" if accuracy else f"not measured: {model['reason']}"
        lines.append(f"{name + ' model':<{FIRST}}{said}")
    return lines
