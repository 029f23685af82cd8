"""Wiring of the audit: a table → evidence → suspicious rows, models, effects → verdict."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.audit.nodes import (
    clean_table,
    conclude,
    find_rows,
    gather_evidence,
    measure_effects,
    start_clock,
    train_audited,
    train_repaired,
)

EVIDENCE = {"phrases": "audit_phrases", "openings": "audit_openings"}
SUSPICIOUS = {"suspicious": "suspicious_rows"}
MODELS = {"audited": "audited_model", "repaired": "repaired_model"}
SETTINGS = {
    "model": "params:model",
    "compute": "params:compute",
    "seed": "params:seed",
}
TRAINING = {
    "examples": "examples",
    "base_model": "base_model",
    "params": "params:training",
    "deadline": "audit_deadline",
    **SUSPICIOUS,
    **SETTINGS,
}


def create_pipeline(**kwargs: object) -> Pipeline:
    """Everything after ``ingest``."""
    return Pipeline(
        [
            Node(start_clock, "params:audit.budget_minutes", "audit_deadline", name="start_clock"),
            Node(
                gather_evidence,
                ["examples", "trusted_rows", "base_model", "params:audit", "params:seed"],
                EVIDENCE | {"power": "audit_power", "facts": "audit_facts"},
                name="gather_evidence",
            ),
            Node(
                find_rows,
                {"examples": "examples", **EVIDENCE},
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
                train_audited,
                TRAINING,
                ["audited_model", "audited_record"],
                name="train_audited",
            ),
            Node(
                train_repaired,
                TRAINING | {"audit": "params:audit"},
                ["repaired_model", "repaired_record"],
                name="train_repaired",
            ),
            Node(
                measure_effects,
                {
                    "examples": "examples",
                    **EVIDENCE,
                    **SUSPICIOUS,
                    **MODELS,
                    "audit": "params:audit",
                    **SETTINGS,
                },
                "audit_effects",
                name="measure_effects",
            ),
            Node(
                conclude,
                {
                    **EVIDENCE,
                    "power": "audit_power",
                    "facts": "audit_facts",
                    **SUSPICIOUS,
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
        ],
        tags="audit",
    )
