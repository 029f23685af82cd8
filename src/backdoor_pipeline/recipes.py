"""The recipes: which training, which detector and which unlearners make a named defence.

Each is a named pipeline: ``kedro run --pipelines btu``. Besides, any detector goes with any
unlearner of its modality: ``--params "detector=token_drift,unlearner=ssd"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from backdoor_pipeline.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

Modality = Literal["text", "image", "pair"]

DETECTORS = {
    "token_drift": ("poison",),
    "token_association": ("poison",),
    "confirmation": ("token_drift", "token_association"),
    "discovered_share": ("poison",),
    "overfit_similarity": ("victim", "trusted"),
}
"""Detector -> the stages and the other detectors whose outputs it reads."""

SUSPECT_EXAMPLES = {"discovered_share", "overfit_similarity"}
"""The detectors whose suspects are examples; those of all others are tokens."""

UNLEARNERS = (
    "token_replacement",
    "neutralisation",
    "recalibration",
    "fine_tune",
    "trigger_search",
    "ssd",
    "assd",
    "retraining",
    "continued_training",
    "scrub",
    "bad_teaching",
    "word_forgetting",
    "local_forgetting",
    "clip_fine_tune",
    "cleanclip",
)

OF_CLEAN_PAIRS = {"clip_fine_tune", "cleanclip"}
"""The unlearners of dual encoders that need no suspects."""

WORK_ON: dict[Modality, set[str]] = {
    "text": {*DETECTORS, *UNLEARNERS} - {"overfit_similarity", "local_forgetting", *OF_CLEAN_PAIRS},
    "image": {
        *("discovered_share", "trigger_search", "ssd", "assd", "retraining"),
        *("continued_training", "scrub", "bad_teaching"),
    },
    "pair": {"discovered_share", "overfit_similarity", "local_forgetting"},
}
"""Modality -> the detectors and unlearners of such data."""

TRAIN_LAST_LAYERS = {"trigger_search", "retraining", "continued_training"}
"""The unlearners that train the last layers of a model, as many as they are told to."""

NEED_CLEAN_ROWS = {"gradient_alignment", "clean_only"}
"""The methods of training that learn from a few rows that are known to be clean."""


class Recipe(NamedTuple):
    """A defence of one modality: unlearning after training, or a training that resists.

    Attributes:
        detector: Whose suspects are unlearnt; a name in ``DETECTORS``.
        unlearners: Names in ``pipelines.unlearn.nodes.UNLEARNERS``, one after the other.
        training: Names in ``pipelines.train.defended.METHODS``, all in the one training that makes
            the purified model; without any, that is the victim after unlearning.
        modality: Of the data and models that it is made for.
    """

    detector: str | None = None
    unlearners: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    modality: Modality = "text"

    @property
    def detectors(self) -> tuple[str, ...]:
        """All that take part in the detection, each after those whose suspects it reads."""
        needed = {self.detector, *DETECTORS.get(self.detector or "", ())}
        return tuple(name for name in DETECTORS if name in needed)

    @property
    def methods(self) -> tuple[str, ...]:
        """Its methods; each has a parameter group of that name."""
        trainer = ("defended_training",) if self.training and self.modality == "text" else ()
        return (*trainer, *self.training, *self.detectors, *self.unlearners)

    @property
    def from_base(self) -> bool:
        """Whether its models start from a public encoder, and have its tokenizer."""
        return self.modality == "text"

    @property
    def planned(self) -> tuple[str, ...]:
        """Its unlearners that are planned before all trainings, because they may not fit."""
        may_not_fit = TRAIN_LAST_LAYERS | OF_CLEAN_PAIRS
        return tuple(name for name in self.unlearners if name in may_not_fit)

    @property
    def drawn(self) -> tuple[str, ...]:
        """``clean_rows``, if its training learns from a few rows that are known to be clean."""
        return ("clean_rows",) if NEED_CLEAN_ROWS & set(self.training) else ()

    @property
    def recorded(self) -> tuple[str, ...]:
        """What says what it did, in data sets called ``<name>_record``: its methods, its rows."""
        trained = ("defended_training",) if self.training else ()
        return (*self.drawn, *trained, *self.detectors, *self.unlearners)

    @property
    def suspects_tokens(self) -> bool:
        """Whether what its detector suspects are tokens, not examples."""
        return self.detector not in {None, *SUSPECT_EXAMPLES}

    @property
    def is_told(self) -> bool:
        """Whether nothing is detected: its suspects are what the defender was told."""
        return self.detector == "discovered_share"

    @property
    def curve(self) -> tuple[str, ...]:
        """``discovery``, if it depends on how much of the poison is discovered."""
        return ("discovery",) if self.is_told and self.modality in TOLD else ()

    @property
    def figures(self) -> tuple[str, ...]:
        """What its report draws."""
        of_suspects = ("drift", "association") if self.suspects_tokens else ()
        of_search = ("search",) if "trigger_search" in self.unlearners else ()
        of_pairs = ("similarity",) if self.detector == "overfit_similarity" else ()
        of_forgetting = ("forgetting",) if "local_forgetting" in self.unlearners else ()
        return ("before_after", *of_suspects, *of_pairs, *of_search, *of_forgetting, "training")


def _of_images(unlearner: str) -> Recipe:
    return Recipe("discovered_share", (unlearner,), modality="image")


DEFAULT = "btu_calibrated"
PUBLISHED = ("token_replacement", "fine_tune")
CALIBRATED = ("token_replacement", "neutralisation", "recalibration", "fine_tune")
RECIPES = {
    "btu": Recipe("token_drift", PUBLISHED),
    "btu_calibrated": Recipe("confirmation", CALIBRATED),
    "association": Recipe("token_association", CALIBRATED),
    "musclelora": Recipe(training=("radial_scaling", "low_rank", "gradient_alignment")),
    "lora": Recipe(training=("low_rank",)),
    "lora_msr": Recipe(training=("radial_scaling", "low_rank")),
    "lora_ga": Recipe(training=("low_rank", "gradient_alignment")),
    "ga": Recipe(training=("gradient_alignment",)),
    "adapter": Recipe(training=("adapter",)),
    "prefix": Recipe(training=("prefix",)),
    "moderate_fitting": Recipe(training=("low_rank", "moderate_fitting")),
    "abl": Recipe(training=("anti_backdoor",)),
    "clean_only": Recipe(training=("radial_scaling", "low_rank", "clean_only")),
    "potion": _of_images("trigger_search"),
    "ssd": _of_images("ssd"),
    "assd": _of_images("assd"),
    "retrain": _of_images("retraining"),
    "fine_tune": _of_images("continued_training"),
    "scrub": _of_images("scrub"),
    "badt": _of_images("bad_teaching"),
    "potion_text": Recipe("discovered_share", ("trigger_search",)),
    **{name: Recipe(unlearners=(name,), modality="pair") for name in sorted(OF_CLEAN_PAIRS)},
    "roclip": Recipe(training=("roclip",), modality="pair"),
    "abl_clip": Recipe(training=("pair_isolation",), modality="pair"),
    "ubt_text": Recipe("discovered_share", ("word_forgetting",)),
    "ubt": Recipe("overfit_similarity", ("local_forgetting",), modality="pair"),
}


TOLD: dict[Modality, str] = {"text": "potion_text", "image": "potion"}
"""The recipes of a defender who was told a part of the poison."""


def _crossings() -> dict[str, Recipe]:
    pairs = [
        (modality, detector, unlearner)
        for modality in get_args(Modality)
        for detector in DETECTORS
        for unlearner in UNLEARNERS
        if {detector, unlearner} <= WORK_ON[modality]
    ]
    recipes = {pair: Recipe(pair[1], (pair[2],), modality=pair[0]) for pair in pairs}
    named = set(RECIPES.values())
    return {"__".join(pair): made for pair, made in recipes.items() if made not in named}


CROSSINGS = _crossings()
"""Each detector with each unlearner, unless that is a named recipe: ``text__token_drift__ssd``."""

ALL = RECIPES | CROSSINGS


def crossed(recipe: str, detector: str | None, unlearner: str | None) -> str:
    """The name of ``recipe`` with another detector or unlearner; None: its own.

    Raises:
        InputError: There is no such method, it is for other data, the recipe is a training that
            resists, or which of its several unlearners is to be replaced is not said.
    """
    if detector is None and unlearner is None:
        return recipe
    if recipe not in ALL:
        raise InputError(
            f"detector and unlearner are those of a recipe, which {recipe} is not; run "
            f"--pipelines {DEFAULT}, or leave them out"
        )
    own = ALL[recipe]
    if own.training:
        raise InputError(
            f"{recipe} trains a model that resists, without detector and unlearner; run another "
            f"recipe, such as {DEFAULT}, or leave them out"
        )
    for what, name, known in (
        ("detector", detector, DETECTORS),
        ("unlearner", unlearner, UNLEARNERS),
    ):
        if name is not None and name not in known:
            raise InputError(f"there is no {what} '{name}'{did_you_mean(name, set(known))}")
        if name in OF_CLEAN_PAIRS:
            raise InputError(f"{name} needs no detector; run the recipe {name}, and leave it out")
        if name is not None and name not in WORK_ON[own.modality]:
            others = " and ".join(f"{of}s" for of, methods in WORK_ON.items() if name in methods)
            raise InputError(
                f"the {what} {name} is for {others}, and {recipe} is for {own.modality}s"
            )
    if unlearner is None and len(own.unlearners) != 1:
        raise InputError(f"{recipe} has several unlearners; give one besides detector={detector}")
    unlearners = own.unlearners if unlearner is None else (unlearner,)
    wanted = Recipe(detector or own.detector, unlearners, modality=own.modality)
    return next(name for name, made in ALL.items() if made == wanted)


def modality_of(pipelines: Iterable[str]) -> Modality | None:
    """That of the recipes among ``pipelines``; None if there is none among them.

    Raises:
        InputError: They are of several.
    """
    asked = {ALL[name].modality: name for name in sorted(pipelines) if name in ALL}
    if len(asked) > 1:
        (one, of_one), (other, of_other), *_ = asked.items()
        raise InputError(
            f"{of_one} is for {one} data, {of_other} for {other} data, and a run has one kind of "
            "data; run them one after the other"
        )
    return next(iter(asked), None)
