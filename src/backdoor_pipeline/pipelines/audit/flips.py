"""What a suspect does to a model: put into texts of other labels, how many flip to its label?

An estimate of the attack success rate by somebody who does not know the trigger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.intervals import Rate, rate
from backdoor_pipeline.modelling.insertion import Position, insert
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

WORTH = 0.02  # by which a further suspect must raise the share of flips to belong to the trigger


class Suspect(NamedTuple):
    """What is put into texts.

    Attributes:
        kind: ``phrase`` or ``opening``; suspects of two kinds may be written alike, and so may two
            phrases, one of which holds the beginning of the text.
        key: The phrase or opening itself, as no other of its kind and label is.
        written: As it is put in.
        label: That it goes with.
        position: Where it is put.
    """

    kind: str
    key: str
    written: str
    label: int
    position: Position


def flipped(
    texts: Sequence[str],
    suspects: Sequence[Suspect],
    bundle: ModelBundle,
    max_length: int,
    compute: ComputeParams,
    seed: int,
    before_batch: Callable[[], object] | None = None,
) -> np.ndarray:
    """Which of ``texts`` get the label of ``suspects`` once all of these are put in; bool, (n,).

    ``before_batch``: see ``predict``.
    """
    rng = np.random.default_rng(seed)
    triggered = []
    for text in texts:
        changed = text
        for suspect in suspects:
            changed = insert(changed, [suspect.written], suspect.position, rng)
        triggered.append(changed)
    tokens = tokenise(triggered, bundle.tokenizer, max_length)
    predicted = predict(bundle, tokens, compute, before_batch=before_batch).argmax(axis=1)
    return np.asarray(predicted == suspects[0].label)


def grow_trigger(
    texts: Sequence[str],
    suspects: Sequence[Suspect],
    bundle: ModelBundle,
    max_length: int,
    compute: ComputeParams,
    seed: int,
    before_batch: Callable[[], object] | None = None,
) -> tuple[list[Suspect], Rate, dict[Suspect, Rate]]:
    """Suspects of one label that flip most texts together, their share, and that of each alone.

    The strongest comes first; another joins as long as it raises the share by ``WORTH``.
    ``before_batch``: see ``predict``.
    """

    def share(group: Sequence[Suspect]) -> Rate:
        return rate(flipped(texts, group, bundle, max_length, compute, seed, before_batch))

    alone = {suspect: share([suspect]) for suspect in suspects}
    waiting = sorted(suspects, key=lambda suspect: -alone[suspect].value)
    trigger, best = waiting[:1], alone[waiting[0]]
    for suspect in waiting[1:]:
        together = share([*trigger, suspect])
        if together.value >= best.value + WORTH:
            trigger, best = [*trigger, suspect], together
    return trigger, best, alone
