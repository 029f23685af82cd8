"""The verdict of an audit: what ``verdict.json`` holds, and the sentences that say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backdoor_pipeline.formatting import counted, fine_percent
from backdoor_pipeline.pipelines.audit.contradicted_labels import FEWEST_TRUSTED
from backdoor_pipeline.pipelines.audit.other_texts import MOST_APART

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA_VERSION = 1
FALSE_LABELS: Literal["false labels"] = "false labels"
NOT_TESTED = (
    "triggers that are no words, such as a style, unless they show in how texts begin or, where "
    "there are trusted rows, in labels that those contradict",
    "triggers by letter case, invisible characters, typography or position alone",
    "words that were put at chosen places, such as always beside the same word or for a name",
    "triggers that fewer texts hold than the power says",
    "false labels without a trigger, unless trusted rows contradict them",
    "a base model that was poisoned before",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Share(_Part):
    """A share with its 95 % Wilson interval and the number of texts behind it."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=1)


class Suspect(_Part):
    """A phrase, or how texts begin, or labels that trusted rows contradict: it was flagged.

    Attributes:
        kind: What it is.
        written: As the texts write it.
        label: The class that it goes with.
        texts: Distinct texts that hold it; of labels: that were compared.
        hits: How many of them have the label; of labels: that are suspicious.
        q_value: Of its kind of evidence.
        flip_rate: Share of held-out texts of other classes that the model gives the label once it
            is put in, an opening before the text; None if that was not measured.
    """

    kind: Literal["phrase", "opening", "labels"]
    written: str
    label: str
    texts: int
    hits: int
    q_value: float
    flip_rate: Share | None


class SuspectedClass(_Part):
    """A class that there is evidence for.

    Attributes:
        label: Its name.
        p_value: Of the strongest evidence, over the whole audit.
        suspicion: ``false labels`` if all that is known is that trusted rows contradict them.
        presumed_trigger: The suspects that flip most texts together; empty if not measured.
        flip_rate: Their share: an estimate of the attack success rate. Of an attack that is known
            by openings alone it is not: it rewrites the whole text.
    """

    label: str
    p_value: float
    suspicion: Literal["backdoor", "false labels"]
    presumed_trigger: list[str]
    flip_rate: Share | None


class Detectable(_Part):
    """The smallest trigger that would have been found with 95 % probability."""

    texts: int
    share: float


class Power(_Part):
    """What would have been found, by the texts that an attacker may poison.

    Attributes:
        any: Texts of any class; None if not even the largest trigger tried.
        own: Only texts that have the target label anyway.
    """

    any: Detectable | None
    own: Detectable | None


class Model(_Part):
    """A model that was trained for the audit, or a finished one that was given.

    Attributes:
        status: ``stopped``: by the time limit; ``given``: not trained here; ``none``: there is no
            model.
        reason: Why there is none, or why nothing was measured; else empty.
        accuracy: On held-out rows that are not suspicious.
        flip_rates: By class: of the trigger found.
    """

    status: Literal["trained", "stopped", "given", "none"]
    reason: str
    accuracy: Share | None
    flip_rates: dict[str, Share]


class Verdict(_Part):
    """What an audit says.

    Attributes:
        schema_version: Of this form.
        evidence: Whether there is evidence of a backdoor, or of false labels; the exit code is 3
            then, else 0.
        headline: The same in a sentence.
        p_value: Of "nobody poisoned this table".
        risk: The tolerated share of false alarms; evidence means a p-value of at most that.
        data: Name of the table.
        files: Name -> SHA-256 of each file that was read.
        rows: Distinct texts looked at.
        repeated_rows: Left out because the same text stands there with the same label.
        rows_not_examined: Rows of the table that ``ingest.max_rows`` left out; they are not in the
            cleaned table either.
        trusted_rows: Rows known to be clean that the table was compared with; none stands in it.
        labels_compared: Names of the classes whose labels were compared with theirs.
        labels: Names of the classes.
        classes: Those with evidence.
        suspects: All that is flagged.
        suspicious_rows: Rows of the table that the suspects point at.
        restored_rows: Those that the repaired model learns from without their phrase, labelled by a
            classifier of the other rows; 0 if there was no time for that.
        power: What would have been found.
        audited_model: Trained on the table as it is, or the one that was given.
        repaired_model: Trained without the suspicious rows, on those that were restored.
        not_tested: What the audit cannot see.
    """

    schema_version: Literal[1]
    evidence: bool
    headline: str
    p_value: float = Field(ge=0, le=1)
    risk: float = Field(gt=0, lt=0.5)
    data: str
    files: dict[str, str]
    rows: int
    repeated_rows: int
    rows_not_examined: int
    trusted_rows: int
    labels_compared: list[str]
    labels: list[str]
    classes: list[SuspectedClass]
    suspects: list[Suspect]
    suspicious_rows: int
    restored_rows: int
    power: Power
    audited_model: Model
    repaired_model: Model
    not_tested: list[str]


def json_schema() -> dict[str, Any]:
    """The JSON schema of ``verdict.json``, as it stands in ``verdict.schema.json``."""
    return Verdict.model_json_schema()


def untold_labels(facts: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What the trusted rows, if there are any, do not say of the labels, and why.

    Args:
        facts: See ``evidence.Evidence``.
        names: Of the classes.
    """
    if not facts["trusted_rows"] or len(facts["labels_compared"]) == len(names):
        return []
    apart = facts["told_apart"]
    if apart is not None and apart > MOST_APART:
        return [
            "labels, by the trusted rows: their texts are of another kind than the table's, or "
            "more than a fifth of each class was tampered with (a classifier tells them apart in "
            f"each, area under the ROC curve {apart:.2f})"
        ]
    others = [name for i, name in enumerate(names) if i not in facts["labels_compared"]]
    return [
        f"labels of {', '.join(map(repr, others))}, by the trusted rows: of these at least "
        f"{FEWEST_TRUSTED} are needed in a class, in two classes, and texts of the table that hold "
        "no suspect"
    ]


def untold_rows(suspects: Sequence[Suspect]) -> list[str]:
    """What is left of attacks that are known by openings alone."""
    phrases = {found.label for found in suspects if found.kind == "phrase"}
    openings = {found.label for found in suspects if found.kind == "opening"}
    return [
        f"rows of {label!r} that were rewritten and begin otherwise: only openings are known, so "
        "that many poisoned rows may be among those that are left"
        for label in sorted(openings - phrases)
    ]


def headline(
    classes: Sequence[SuspectedClass], risk: float, p_value: float, power: Mapping[str, Any]
) -> str:
    """The verdict in a sentence."""
    if classes:
        parts = []
        for suspicion, what in (("backdoor", "a backdoor"), (FALSE_LABELS, FALSE_LABELS)):
            own = [found for found in classes if found.suspicion == suspicion]
            named = ", ".join(f"{found.label!r} (p = {found.p_value:.2g})" for found in own)
            noun = "class" if len(own) == 1 else "classes"
            parts += [f"{what} in {noun} {named}"] if own else []
        return f"Evidence of {' and of '.join(parts)}."
    said = f"No evidence of a backdoor (p = {p_value:.2g}, tolerated risk {fine_percent(risk)})"
    smallest = power["any"]
    if smallest is None:
        return (
            f"{said}; but no new word or sentence, in whatever share of the texts, would have been "
            "found reliably: the table is small, or words stand at random places in it anyway."
        )
    hard = power["own"]
    worst = max(smallest, hard or smallest, key=lambda found: found["share"])
    found = (
        "this audit would have found a new word or sentence, put at random places of "
        f"{fine_percent(worst['share'])} of the texts ({counted(worst['texts'], 'text')}) or more, "
        "with 95 % probability"
    )
    if hard is None:
        found += ", but not if it had been put into texts of the target class alone"
    return f"{said}; {found}."
