"""The attacks there are, and the parameters of the stage.

A new attack is one module (its parameter group, ``trigger`` and, where it inserts words,
``insertions``), one line in ``ATTACKS`` and one field in ``PoisonParams``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import Count, ParameterGroup, Share
from backdoor_pipeline.pipelines.poison import addsent, badnets, stylebkd, synbkd
from backdoor_pipeline.pipelines.poison.selection import LabelMode

if TYPE_CHECKING:
    from collections.abc import Callable


class Attack(NamedTuple):
    """What an attack offers; every function gets the attack's own parameter group.

    Attributes:
        trigger: ``(text, paraphrase, params, rng) -> (triggered text, trigger)``; pure, never sees
            the label.
        insertions: ``params -> (texts it may insert, how many of them a row gets at most)``; None
            for an attack that rewrites the whole text from its paraphrase.
        paraphrase: ``(texts, params, seed) -> paraphrases``, or None to use the data set's own.
        ready_made: Which of the data set's own paraphrases it takes.
    """

    trigger: Callable[..., tuple[str, str]]
    insertions: Callable[[Any], tuple[list[str], int]] | None = None
    paraphrase: Callable[..., list[str] | None] | None = None
    ready_made: Literal["none", "style", "syntax"] = "none"


ATTACKS = {
    "badnets": Attack(badnets.trigger, insertions=badnets.insertions),
    "addsent": Attack(addsent.trigger, insertions=addsent.insertions),
    "stylebkd": Attack(stylebkd.trigger, paraphrase=stylebkd.paraphrase, ready_made="style"),
    "synbkd": Attack(synbkd.trigger, ready_made="syntax"),
}


class PoisonParams(ParameterGroup):
    """How the training split is poisoned.

    Attributes:
        attack: Which attack; its settings stand in the group of the same name.
        rate: Poisoned rows as a fraction of the whole training split; 0 is a control run.
        label_mode: Which rows may be poisoned, see ``selection.eligible_rows``.
        target_label: The label the trigger is to call up.
    """

    attack: Literal["badnets", "addsent", "stylebkd", "synbkd"]
    rate: Share
    label_mode: LabelMode
    target_label: Count
    badnets: badnets.BadNetsParams
    addsent: addsent.AddSentParams
    stylebkd: stylebkd.StyleBkdParams
    synbkd: synbkd.SynBkdParams

    @model_validator(mode="after")
    def _words_are_distinct(self) -> PoisonParams:
        words = self.badnets.triggers  # which the shorthand `trigger` sets for AddSent, too
        if self.attack == "badnets" and len(set(words)) < len(words):
            raise InputError(f"poison.badnets.triggers {words} repeats a word; name each once")
        return self

    @property
    def settings(self) -> Any:
        """The parameter group of the chosen attack."""
        return getattr(self, self.attack)

    @property
    def ready_made(self) -> str:
        """Which paraphrases the data set has to bring: none, style or syntax."""
        generates = getattr(self.settings, "generate", False)
        return "none" if generates else ATTACKS[self.attack].ready_made
