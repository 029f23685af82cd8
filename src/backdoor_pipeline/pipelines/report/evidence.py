"""The rows of the report's tables: suspects with contexts, and test rows before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from backdoor_pipeline.formatting import number
from backdoor_pipeline.pipelines.report.figures import insertion_bound
from backdoor_pipeline.pipelines.report.highlight import (
    marked,
    rows_with,
    token_spans,
    trigger_spans,
)
from backdoor_pipeline.pipelines.report.pictures import difference, picture
from backdoor_pipeline.schemas import MODELS, content

if TYPE_CHECKING:
    from markupsafe import Markup

    from backdoor_pipeline.pipelines.report.params import ReportParams

ALWAYS = ("kind", "key", "flagged", "evidence", "score", "p_value", "q_value")

OUTCOMES = {
    "cured": "attacker's label before, true label after",
    "wrong": "attacker's label before, another wrong one after",
    "obeys": "attacker's label before and after",
    "floor": "attacker's label before, after, and without any poison",
    "new": "attacker's label only after",
    "never": "never the attacker's label",
}
"""What became of a triggered test row; the reference is the model without any poison."""


class Examples(NamedTuple):
    """Test rows to show, and how many rows there are of each outcome."""

    rows: list[dict[str, Any]]
    counts: dict[str, int]


class Suspects(NamedTuple):
    """Rows of the table of suspects, headings of what detectors add, and how many are flagged."""

    rows: list[dict[str, Any]]
    headings: list[str]
    has_p_values: bool
    n_flagged: int
    n_flagged_shown: int


def suspect_rows(
    suspects: pd.DataFrame, poisoned_train: pd.DataFrame, params: ReportParams
) -> Suspects:
    """The flagged suspects, then the next ones, each with training texts that hold it."""
    ranked = suspects.sort_values(["score", "key"], ascending=[False, True])
    flagged, others = ranked[ranked["flagged"]], ranked[~ranked["flagged"]]
    shown = pd.concat([flagged.head(params.flagged), others.head(params.unflagged)])
    facts = _facts(shown)
    width = params.context_characters
    contents = poisoned_train[content(poisoned_train)].tolist()
    lowered = [text.lower() for text in contents] if "text" in poisoned_train else []
    poisoned = poisoned_train["is_poisoned"].tolist()
    row_of = dict(zip(poisoned_train["example_id"].tolist(), range(len(contents)), strict=True))

    def contexts(suspect: dict[str, Any]) -> list[tuple[Markup, bool]]:
        if suspect["kind"] == "example":
            rows = [row_of[suspect["key"]]] if suspect["key"] in row_of else []
            return [(_shown(contents[row], [], width), poisoned[row]) for row in rows]
        token = suspect["evidence"]
        return [
            (_shown(contents[row], token_spans(contents[row], token), width), poisoned[row])
            for row in rows_with(token, lowered, params.contexts)
        ]

    rows = [
        {
            **{name: suspect.get(name) for name in (*ALWAYS, "verdict")},
            "phrase": _phrase(suspect),
            "facts": {heading: values[place] for heading, values in facts.items()},
            "contexts": contexts(suspect),
            "caption": _caption(suspect, width) if "blamed" in shown else None,
        }
        for place, suspect in enumerate(shown.to_dict("records"))
    ]
    has_p_values = bool(shown["p_value"].notna().any())
    n_shown = min(len(flagged), params.flagged)
    return Suspects(rows, list(facts), has_p_values, len(flagged), n_shown)


def attack_examples(
    predictions: pd.DataFrame,
    triggered_test: pd.DataFrame,
    examples: pd.DataFrame,
    target_label: int | None,
    params: ReportParams,
) -> Examples:
    """Triggered test rows with the trigger marked and each model's prediction, by outcome.

    What was rewritten, and an image, stands beside its ``original``, an image also beside their
    ``difference``.
    """
    wide = _wide(predictions, "triggered")
    obeyed, obeys = wide["victim"] == target_label, wide["purified"] == target_label
    right = wide["purified"] == wide["true_label"]
    outcome = pd.Series("never", index=wide.index)
    outcome[obeyed & right] = "cured"
    outcome[obeyed & ~right & ~obeys] = "wrong"
    outcome[obeyed & obeys] = "obeys"
    outcome[obeyed & obeys & (wide["reference"] == target_label)] = "floor"
    outcome[~obeyed & obeys] = "new"
    kind = content(triggered_test)
    triggered = triggered_test.set_index("example_id")[[kind, "trigger"]]
    original = examples.set_index("example_id")[kind]
    rows = []
    for row in _mixed(wide.assign(outcome=outcome), list(OUTCOMES), params.examples):
        shown, trigger = triggered.loc[row["example_id"]]
        spans = trigger_spans(shown, trigger) if kind == "text" else []
        row |= {"content": _shown(shown, spans, params.characters), "trigger": trigger}
        row |= {"said": OUTCOMES[row["outcome"]], "original": None, "difference": None}
        if not spans:  # what was rewritten shows nothing until it is laid beside what it was
            before = original.get(row["example_id"], "")
            row["original"] = _shown(before, [], params.characters)
            if isinstance(before, bytes):
                row["difference"] = difference(before, shown)
        rows.append(row)
    counts = outcome.value_counts()
    return Examples(rows, {said: int(counts.get(name, 0)) for name, said in OUTCOMES.items()})


def changed_examples(
    predictions: pd.DataFrame, examples: pd.DataFrame, params: ReportParams
) -> Examples:
    """Clean test rows on which victim and purified model differ."""
    wide = _wide(predictions, "clean")
    was_right, is_right = (wide[name] == wide["true_label"] for name in ("victim", "purified"))
    outcome = pd.Series("wrong before and after", index=wide.index)
    outcome[was_right & ~is_right] = "right before, wrong after"
    outcome[~was_right & is_right] = "wrong before, right after"
    changed = wide.assign(outcome=outcome)[wide["victim"] != wide["purified"]]
    contents = examples.set_index("example_id")[content(examples)]
    said = ["right before, wrong after", "wrong before, right after", "wrong before and after"]
    rows = [
        row | {"content": _shown(contents.get(row["example_id"], ""), [], params.characters),
               "said": row["outcome"]}
        for row in _mixed(changed, said, params.examples)
    ]  # fmt: skip
    counts = changed["outcome"].value_counts()
    return Examples(rows, {name: int(counts.get(name, 0)) for name in said})


def _shown(found: str | bytes, spans: list[tuple[int, int]], width: int) -> Markup:
    """A text, cut around its marked spans, or an image."""
    return picture(found) if isinstance(found, bytes) else marked(found, spans, width)


def _wide(predictions: pd.DataFrame, test_set: str) -> pd.DataFrame:
    """One row an example: true label, and per model its predicted label and probability."""
    rows = predictions[predictions["test_set"] == test_set]
    labels = rows.drop_duplicates("example_id").set_index("example_id")["label"]
    wide = rows.pivot(index="example_id", columns="model", values="predicted")
    wide = wide.reindex(columns=list(MODELS))
    sure = rows.pivot(index="example_id", columns="model", values="probability")
    sure = sure.reindex(columns=wide.columns).add_suffix("_probability")
    return pd.concat([labels.rename("true_label"), wide, sure], axis=1).reset_index()


def _mixed(rows: pd.DataFrame, outcomes: list[str], n: int) -> list[dict[str, Any]]:
    """At most ``n`` rows, taken in turn from every outcome in order of their ids."""
    turn = rows.groupby("outcome").cumcount()
    place = rows["outcome"].map({name: i for i, name in enumerate(outcomes)})
    order = rows.assign(turn=turn, place=place).sort_values(["turn", "place"]).head(n)
    return order.sort_values(["place", "turn"])[rows.columns].to_dict("records")


def _facts(suspects: pd.DataFrame) -> dict[str, list[Any]]:
    """What detectors may add, by heading: numbers, or text that is ready to show."""
    facts: dict[str, pd.Series] = {}
    columns = {"count": "texts", "label": "label", "purity": "purity", "residual_z": "residual z"}
    for column, heading in columns.items():
        if column in suspects:
            facts[heading] = suspects[column]
    facts["misfit"] = insertion_bound(suspects)
    ranks = [name for name in ("rank_a", "rank_b", "rank_c") if name in suspects]
    if ranks:
        written = suspects[ranks].map(number)
        facts["drift ranks"] = written.agg(" / ".join, axis=1)
    return {name: values.tolist() for name, values in facts.items() if values.notna().any()}


def _caption(suspect: dict[str, Any], width: int) -> Markup:
    """Of a suspected pair, with the blamed token marked."""
    blamed = suspect["blamed"]
    spans = token_spans(suspect["evidence"], blamed) if blamed else []
    return marked(suspect["evidence"], spans, width)


def _phrase(suspect: dict[str, Any]) -> str | None:
    phrase = suspect.get("phrase")
    return phrase if isinstance(phrase, str) and phrase not in {"", suspect["evidence"]} else None
