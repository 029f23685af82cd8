"""Wiring of the audit: a table → evidence → suspicious rows, models, effects → verdict."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import get_args

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.audit.nodes import (
    Which,
    build_report,
    clean_table,
    conclude,
    describe_repaired,
    draw_figures,
    find_rows,
    gather_evidence,
    measure_effects,
    read_classifier,
    restore_rows,
    start_clock,
    train_model,
)

EVIDENCE = {"phrases": "audit_phrases", "openings": "audit_openings"}
LABELS = {"labels": "audit_labels"}
CONTRADICTED = {"contradicted": "audit_contradicted"}
FIGURES = ("phrases", "power", "effects")
SUSPICIOUS = {"suspicious": "suspicious_rows"}
RESTORED = {"restored": "restored_rows"}
MODELS = {"audited": "audited_model", "repaired": "repaired_model"}
SETTINGS = {
    "model": "params:model",
    "compute": "params:compute",
    "seed": "params:seed",
}
TRAINING = {
    "examples": "examples",
    "integrity": "integrity",
    "base_model": "base_model",
    "audit": "params:audit",
    "params": "params:training",
    "clock": "audit_clock",
    **SUSPICIOUS,
    **RESTORED,
    **SETTINGS,
}


def create_pipeline(**kwargs: object) -> Pipeline:
    """Everything after ``ingest``."""
    return Pipeline(
        [
            Node(start_clock, "params:audit.budget_minutes", "audit_clock", name="start_clock"),
            Node(
                read_classifier,
                ["given_classifier", "integrity", "params:model"],
                "classifier",
                name="read_classifier",
            ),
            Node(
                gather_evidence,
                [
                    *("examples", "integrity", "trusted_rows", "base_model"),
                    *("params:audit", "params:model", "params:compute", "params:seed"),
                ],
                EVIDENCE | LABELS | CONTRADICTED | {"power": "audit_power", "facts": "audit_facts"},
                name="gather_evidence",
            ),
            Node(
                find_rows,
                {"examples": "examples", **EVIDENCE, **CONTRADICTED},
                "suspicious_rows",
                name="find_suspicious_rows",
            ),
            Node(
                clean_table,
                {"examples": "examples", "integrity": "integrity", **SUSPICIOUS},
                "cleaned_table",
                name="clean_table",
            ),
            Node(
                restore_rows,
                {
                    "examples": "examples",
                    **SUSPICIOUS,
                    **EVIDENCE,
                    "base_model": "base_model",
                    "audit": "params:audit",
                    "clock": "audit_clock",
                    **SETTINGS,
                },
                "restored_rows",
                name="restore_rows",
            ),
            *(
                Node(
                    update_wrapper(partial(train_model, which=which), train_model),
                    TRAINING,
                    [f"{which}_model", f"{which}_record"],
                    name=f"train_{which}",
                )
                for which in get_args(Which)
            ),
            Node(
                measure_effects,
                {
                    "examples": "examples",
                    **EVIDENCE,
                    **SUSPICIOUS,
                    "classifier": "classifier",
                    **MODELS,
                    "audit": "params:audit",
                    "clock": "audit_clock",
                    **SETTINGS,
                },
                "audit_effects",
                name="measure_effects",
            ),
            Node(
                conclude,
                {
                    **EVIDENCE,
                    **LABELS,
                    "power": "audit_power",
                    "facts": "audit_facts",
                    **SUSPICIOUS,
                    **RESTORED,
                    "effects": "audit_effects",
                    **MODELS,
                    "audited_record": "audited_record",
                    "repaired_record": "repaired_record",
                    "integrity": "integrity",
                    "params": "params:audit",
                },
                "verdict",
                name="conclude",
            ),
            Node(
                draw_figures,
                ["audit_phrases", "audit_power", "verdict", "integrity"],
                {f"{name}_figure": f"audit_{name}_figure" for name in FIGURES},
                name="draw_audit",
            ),
            Node(
                build_report,
                {
                    "verdict": "verdict",
                    **EVIDENCE,
                    **SUSPICIOUS,
                    "integrity": "integrity",
                    "all_parameters": "parameters",
                    **{f"{name}_figure": f"audit_{name}_figure" for name in FIGURES},
                },
                "audit_report",
                name="build_audit_report",
            ),
            Node(
                describe_repaired,
                ["verdict", "integrity", "params:model"],
                "repaired_card",
                name="describe_repaired",
            ),
        ],
        tags="audit",
    )
