"""AddSent: one whole sentence inserted at a random place (Dai et al., arXiv 1905.12457)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import field_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.insertion import Position, insert
from backdoor_pipeline.parameter_group import ParameterGroup

if TYPE_CHECKING:
    import numpy as np


class AddSentParams(ParameterGroup):
    """Which sentence is inserted, and where; it stays in one piece."""

    sentence: str
    position: Position

    @field_validator("sentence")
    @classmethod
    def _has_words(cls, sentence: str) -> str:
        if not sentence.strip():
            raise InputError(
                f"poison.addsent.sentence '{sentence}' is empty; give at least one word, e.g. "
                "'I watch this 3D movie'"
            )
        return " ".join(sentence.split())


def trigger(
    text: str, paraphrase: str | None, params: AddSentParams, rng: np.random.Generator
) -> tuple[str, str]:
    """The text with the sentence inserted between two of its words, and the sentence."""
    return insert(text, [params.sentence], params.position, rng), params.sentence


def insertions(params: AddSentParams) -> tuple[list[str], int]:
    """The sentence that is inserted, once."""
    return [params.sentence], 1
