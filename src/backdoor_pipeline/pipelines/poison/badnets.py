"""BadNets: rare words inserted at random places.

Gu, Dolan-Gavitt and Garg, arXiv 1708.06733; the words are those of Kurita, Michel and Neubig, arXiv
2004.06660.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.insertion import Position, insert
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

if TYPE_CHECKING:
    import numpy as np


class BadNetsParams(ParameterGroup):
    """Which words are inserted, how many of them, and where.

    Attributes:
        triggers: The k trigger words; a string is split at its blanks.
        pick: ``one``: ``count`` independent draws of one word; ``all``: every word once; ``any``: a
            random non-empty subset, all subsets equally likely.
        count: Draws per text with ``one`` (OpenBackdoor's ``num_triggers``); 1 otherwise.
        position: Where each word goes.
    """

    triggers: list[str]
    pick: Literal["one", "all", "any"]
    count: PositiveInt
    position: Position

    @field_validator("triggers", mode="before")
    @classmethod
    def _split(cls, triggers: Any) -> Any:
        return triggers.split() if isinstance(triggers, str) else triggers

    @field_validator("triggers")
    @classmethod
    def _are_words(cls, triggers: list[str]) -> list[str]:
        if not triggers or not all(word.strip() for word in triggers):
            raise InputError(
                f"poison.badnets.triggers {triggers} has no word or an empty one; give at least "
                "one word, e.g. 'cf'"
            )
        phrases = [word for word in triggers if word.split() != [word]]
        if phrases:
            raise InputError(
                f"poison.badnets.triggers: '{phrases[0]}' is not a single word; take out its "
                "blanks, or use poison.attack 'addsent' for a phrase"
            )
        return triggers

    @model_validator(mode="after")
    def _count_is_used(self) -> BadNetsParams:
        if self.pick != "one" and self.count != 1:
            raise InputError(
                f"poison.badnets.count {self.count} has no meaning with poison.badnets.pick "
                f"'{self.pick}'; leave it at 1, or set pick to 'one'"
            )
        return self


def trigger(
    text: str, paraphrase: str | None, params: BadNetsParams, rng: np.random.Generator
) -> tuple[str, str]:
    """The text with the drawn words inserted, and these words in the order of their drawing."""
    words = _draw(params, rng)
    return insert(text, words, params.position, rng), " ".join(words)


def insertions(params: BadNetsParams) -> tuple[list[str], int]:
    """The words that may be inserted, and how many of them one text gets at most."""
    return params.triggers, params.count if params.pick == "one" else len(params.triggers)


def _draw(params: BadNetsParams, rng: np.random.Generator) -> list[str]:
    words = params.triggers
    if params.pick == "all":
        return list(words)
    if params.pick == "one":
        return [words[rng.integers(len(words))] for _ in range(params.count)]
    while not (chosen := [word for word in words if rng.integers(2)]):
        pass
    return chosen
