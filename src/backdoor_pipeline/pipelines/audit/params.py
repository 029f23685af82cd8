"""The parameters of the audit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backdoor_pipeline.parameter_group import (
    Count,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
    Share,
)

Risk = Annotated[float, Field(gt=0, lt=0.5)]


class EvidenceParams(ParameterGroup):
    """How much error is tolerated, and what is looked for: all that the evidence depends on.

    Attributes:
        risk: Most false alarms, as a share of audits of clean data.
        longest_ngram: Words per n-gram that is tested, text boundaries included.
        min_count: Texts that an n-gram must stand in to be tested, at least ...
        min_share: ... and this share of all texts.
        grow_share: Of a phrase's texts that must share a neighbouring word for it to grow.
        max_natural_share: Of the texts of a phrase with its label, as those with others tell.
        association_level: Chance of a tie to a label by accident, over all n-grams and labels.
        components: Principal axes of the word vectors.
        max_candidates: N-grams examined, those most surely tied to a label first.
    """

    risk: Risk
    longest_ngram: PositiveInt
    min_count: PositiveInt
    min_share: Share
    grow_share: Share
    max_natural_share: Share
    association_level: Share
    components: PositiveInt
    max_candidates: PositiveInt


class AuditParams(EvidenceParams):
    """The same, and what is done about what was found.

    Attributes:
        budget_minutes: When they are over, trainings have stopped, and nothing more is measured.
            None: no limit. Each run has these minutes: one that was killed and goes on has them
            anew, for what is left to do.
        repair: Whether a model is trained on the cleaned table if there is evidence.
        classifier: Folder of a finished classifier, whose effect is measured in place of a model
            that is trained on the table as it is. None: that is trained.
        least_steps: Of each training: of few rows more epochs are made than ``training.epochs``,
            as a model that has learnt little shows no backdoor, either.
        flip_rows: Held-out texts that each suspect is put into.
    """

    budget_minutes: PositiveFloat | None
    repair: bool
    classifier: str | None
    least_steps: Count
    flip_rows: Count
