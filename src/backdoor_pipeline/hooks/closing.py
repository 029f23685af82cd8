"""The end of a run: a small table, then where the report and the metrics are."""

from __future__ import annotations

import sys
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from backdoor_pipeline.hooks.summary import summary_table, verdict_lines
from backdoor_pipeline.recipes import ALL

ANALYSIS = "frequency_report"
AUDIT, VERDICT = "audit", "verdict"
NO_VERDICT = "No verdict: this run was a part of an audit that does not conclude."
AUDITED = {
    "suspicious_rows": "suspicious rows",
    "cleaned_table": "cleaned table",
    "repaired_model": "repaired model",
    "verdict": "verdict",
    "audit_report": "report",
}
EVIDENCE_FOUND = 3
"""The exit code of an audit that found evidence."""


class ClosingHooks:
    """Prints, for every recipe of the run, its table and as the last two lines its paths.

    Of an analysis it prints the path of its page, of an audit its verdict, or that there is none,
    and the paths of what it made.

    Attributes:
        exit_code: What the run has to tell its caller: ``EVIDENCE_FOUND``, or 0, which of a part of
            an audit says nothing about the table.
    """

    def __init__(self) -> None:
        self.exit_code = 0

    @hook_impl
    def before_pipeline_run(self) -> None:
        self.exit_code = 0

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        outputs = pipeline.all_outputs()
        if AUDIT in (run_params.get("pipeline_names") or ()):
            self._close_audit(outputs, catalog)
        if ANALYSIS in outputs:
            _print_path("report", catalog.get(ANALYSIS))
        made = {name for name in ALL if f"{name}.report" in outputs}
        for recipe in sorted(made):
            metrics = catalog.load(f"{recipe}.metrics")
            sys.stdout.write(f"\n{summary_table(metrics, recipe)}\n")
            for name in ("report", "metrics"):
                _print_path(name, catalog.get(f"{recipe}.{name}"))

    def _close_audit(self, outputs: set[str], catalog: DataCatalog) -> None:
        there = {name: what for name, what in AUDITED.items() if name in outputs}
        if VERDICT in outputs:
            verdict = catalog.load(VERDICT)
            self.exit_code = EVIDENCE_FOUND if verdict["evidence"] else 0
            sys.stdout.write(f"\n{verdict_lines(verdict)}\n")
            if verdict["repaired_model"]["status"] == "none":
                there.pop("repaired_model", None)
        else:
            sys.stdout.write(f"\n{NO_VERDICT}\n")
        for name, what in there.items():
            if catalog.exists(name):
                _print_path(what, catalog.get(name))


def _print_path(what: str, dataset: Any) -> None:
    sys.stdout.write(f"{what}: {dataset._get_load_path()}\n")
    sys.stdout.flush()
