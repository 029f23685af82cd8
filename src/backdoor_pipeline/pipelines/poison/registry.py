"""The attacks there are, and the parameters of the stage.

A new attack is one module (its parameter group, ``trigger`` and, where it inserts words,
``insertions``; on images ``describe``), one line in ``ATTACKS`` or ``IMAGE_ATTACKS`` and one field
in ``PoisonParams``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import Count, ParameterGroup, Share
from backdoor_pipeline.pipelines.poison import (
    addsent,
    badclip,
    badnets,
    blended,
    mmpoison,
    patch,
    sig,
    ssba,
    stylebkd,
    synbkd,
    trojvqa,
    wanet,
)
from backdoor_pipeline.pipelines.poison.selection import LabelMode

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


class Attack(NamedTuple):
    """What an attack on texts offers; every function gets the attack's own parameter group.

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


class ImageAttack(NamedTuple):
    """What an attack on images offers; every function gets the attack's own parameter group.

    Images are uint8, shape (n_rows, height, width, n_channels).

    Attributes:
        trigger: ``(images, example_ids, params, seed) -> triggered images``; never sees the labels.
        describe: ``params -> a few words``.
        cover: As ``trigger``, for further rows that keep their labels, ``params.cross_ratio`` for
            each poisoned one.
        needs_images: Whether ``trigger`` also takes ``supplied``, encoded images by example id.
        prefix: ``params -> what stands before captions``, of an attack on pairs alone.
        source: ``params -> the one label whose rows are poisoned``, of an attack on pairs alone
            that has no trigger.
        learn: ``(train, target_label, target_captions, params, seed) -> what trigger takes as
            supplied``, of an attack on pairs alone.
    """

    trigger: Callable[..., np.ndarray]
    describe: Callable[[Any], str]
    cover: Callable[..., np.ndarray] | None = None
    needs_images: bool = False
    prefix: Callable[[Any], str] | None = None
    source: Callable[[Any], int] | None = None
    learn: Callable[..., np.ndarray] | None = None

    @property
    def of_pairs(self) -> bool:
        """Whether it is for pairs alone."""
        return any(made is not None for made in (self.prefix, self.source, self.learn))


IMAGE_ATTACKS = {
    "patch": ImageAttack(patch.trigger, patch.describe),
    "blended": ImageAttack(blended.trigger, blended.describe),
    "sig": ImageAttack(sig.trigger, sig.describe),
    "wanet": ImageAttack(wanet.trigger, wanet.describe, cover=wanet.cover),
    "ssba": ImageAttack(ssba.trigger, ssba.describe, needs_images=True),
    "trojvqa": ImageAttack(trojvqa.trigger, trojvqa.describe, prefix=trojvqa.prefix),
    "mmpoison": ImageAttack(mmpoison.trigger, mmpoison.describe, source=mmpoison.source),
    "badclip": ImageAttack(badclip.trigger, badclip.describe, learn=badclip.learn),
}
"""Also those on pairs of images and captions; the poisoned ones get captions of the target."""


class PoisonParams(ParameterGroup):
    """How the training split is poisoned.

    Attributes:
        attack: Which attack; its settings stand in the group of the same name.
        rate: Poisoned rows as a fraction of the whole training split; 0 is a control run.
        label_mode: Which rows may be poisoned, see ``selection.eligible_rows``.
        target_label: The label the trigger is to call up.
        target_captions: Of pairs: what poisoned images are captioned with, the templates of
            ``ingest.caption_templates`` filled with the target's name, or captions of other
            training rows with the target label.
    """

    attack: Literal[
        "badnets",
        "addsent",
        "stylebkd",
        "synbkd",
        "patch",
        "blended",
        "sig",
        "wanet",
        "ssba",
        "trojvqa",
        "mmpoison",
        "badclip",
    ]
    rate: Share
    label_mode: LabelMode
    target_label: Count
    target_captions: Literal["templates", "real"] = "templates"
    badnets: badnets.BadNetsParams
    addsent: addsent.AddSentParams
    stylebkd: stylebkd.StyleBkdParams
    synbkd: synbkd.SynBkdParams
    patch: patch.PatchParams
    blended: blended.BlendedParams
    sig: sig.SigParams
    wanet: wanet.WaNetParams
    ssba: ssba.SsbaParams
    trojvqa: trojvqa.TrojVqaParams
    mmpoison: mmpoison.MmPoisonParams
    badclip: badclip.BadClipParams

    @model_validator(mode="after")
    def _words_are_distinct(self) -> PoisonParams:
        words = self.badnets.triggers  # which the shorthand `trigger` sets for AddSent, too
        if self.attack == "badnets" and len(set(words)) < len(words):
            raise InputError(f"poison.badnets.triggers {words} repeats a word; name each once")
        return self

    @model_validator(mode="after")
    def _source_is_another(self) -> PoisonParams:
        if self.source_label == self.target_label:
            raise InputError(
                f"poison.{self.attack}.source_label is {self.source_label}, which is the target "
                "label; name another class"
            )
        if self.source_label is not None and self.label_mode == "clean":
            raise InputError(
                f"poison.attack '{self.attack}' takes images of another class than the target, "
                "which poison.label_mode 'clean' forbids; set it to 'dirty'"
            )
        return self

    @property
    def settings(self) -> Any:
        """The parameter group of the chosen attack."""
        return getattr(self, self.attack)

    @property
    def ready_made(self) -> str:
        """Which paraphrases the data set has to bring: none, style or syntax."""
        if self.attack not in ATTACKS or getattr(self.settings, "generate", False):
            return "none"
        return ATTACKS[self.attack].ready_made

    @property
    def modalities(self) -> tuple[str, ...]:
        """What data the chosen attack is for."""
        if self.attack in ATTACKS:
            return ("text",)
        return ("pair",) if IMAGE_ATTACKS[self.attack].of_pairs else ("image", "pair")

    @property
    def prefix(self) -> str | None:
        """What the chosen attack puts before captions, if anything."""
        made = IMAGE_ATTACKS.get(self.attack)
        return None if made is None or made.prefix is None else made.prefix(self.settings)

    @property
    def source_label(self) -> int | None:
        """The one label whose rows the chosen attack poisons, if there is but one."""
        made = IMAGE_ATTACKS.get(self.attack)
        return None if made is None or made.source is None else made.source(self.settings)
