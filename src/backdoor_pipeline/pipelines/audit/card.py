"""The card of the model that an audit has repaired, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backdoor_pipeline.formatting import code, counted, share
from backdoor_pipeline.pipelines.audit.verdict import FALSE_LABELS

HOW_RESTORED = "without the suspected phrase, and labelled by a classifier of the other rows"


def write_card(
    verdict: Mapping[str, Any], integrity: Mapping[str, Any], base_model: str, version: str
) -> str:
    """What the model is, what it was trained on and without, and what is known of it.

    Args:
        verdict: See ``verdict.Verdict``.
        integrity: The report on the data.
        base_model: Name of the encoder that it was trained from.
        version: Of this package.
    """
    model = verdict["repaired_model"]
    if model["status"] == "none":
        return f"# No repaired model\n\nThere is none: {model['reason']}.\n"
    name = integrity.get("dataset", "data")
    left_out = verdict["rows_not_examined"]
    sample = f", and {left_out:,} that it did not examine" if left_out else ""
    restored = verdict["restored_rows"]
    back = f" {counted(restored, 'row')} came back: {HOW_RESTORED}." if restored else ""
    given = verdict["audited_model"]["status"] == "given"
    audited = "the classifier that was given" if given else "trained on the table as it is"
    early = " The time limit ended its training early." if model["status"] == "stopped" else ""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "---",
        "",
        f"# {name}, without its suspicious rows",
        "",
        f"A classifier of {', '.join(map(code, verdict['labels']))}, trained from "
        f"{code(base_model)} on the table {code(name)} without {verdict['suspicious_rows']:,} rows "
        f"that an audit suspects{sample}.{back}{early}",
        "",
        f"> {verdict['headline']}",
        "",
        f"| | {audited} | this model |",
        "| --- | --- | --- |",
        "| accuracy on held-out rows that are not suspicious | "
        f"{share(verdict['audited_model']['accuracy'])} | {share(model['accuracy'])} |",
    ]
    for found in verdict["classes"]:
        if found["suspicion"] == FALSE_LABELS:
            continue
        label = found["label"]
        rates = [
            share(verdict[f"{of}_model"]["flip_rates"].get(label)) for of in ("audited", "repaired")
        ]
        written = ", ".join(map(code, found["presumed_trigger"])) or "suspects"
        lines.append(
            f"| texts of other classes that {written} flip to {code(label)} | {' | '.join(rates)} |"
        )
    lines += [
        "",
        "A model without a backdoor flips some texts too: those that it reads wrongly anyway.",
        "",
        "Not tested: " + "; ".join(verdict["not_tested"]) + ".",
        "",
        f"Made by backdoor_pipeline {version}.",
        "",
    ]
    return "\n".join(lines)
