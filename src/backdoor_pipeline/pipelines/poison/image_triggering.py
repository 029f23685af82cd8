"""Image rows with their trigger: decoded, triggered as the attack does it, encoded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backdoor_pipeline.modelling import pixels
from backdoor_pipeline.modelling.inputs import where_of
from backdoor_pipeline.modelling.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from backdoor_pipeline.pipelines.poison.registry import ImageAttack


class TriggeredImages(NamedTuple):
    """Triggered images, one a row.

    Attributes:
        content: The images, encoded (PNG).
        trigger: What was done to each.
        change: Mean absolute difference from the image before, in steps of 255; 0 without rows.
    """

    content: list[bytes]
    trigger: list[str]
    change: float


def trigger_images(
    rows: pd.DataFrame,
    attack: ImageAttack,
    settings: Any,
    seed: int,
    supplied: Mapping[int, np.ndarray] | np.ndarray | None = None,
) -> TriggeredImages:
    """The images of ``rows`` with the trigger of ``attack``, in their order.

    Raises:
        InputError: The images do not suit the attack's settings.
    """
    takes_more = attack.needs_images or attack.learn is not None
    more = {"supplied": supplied} if takes_more else {}
    return _changed(rows, attack.trigger, attack.describe(settings), settings, seed, **more)


def cover_images(
    rows: pd.DataFrame, attack: ImageAttack, settings: Any, seed: int
) -> TriggeredImages:
    """The images of ``rows`` as the attack's cover rows, which keep their labels.

    Raises:
        ValueError: The attack has none.
    """
    if attack.cover is None:
        raise ValueError("this attack has no cover rows")
    name = f"(cover: {attack.describe(settings)})"
    return _changed(rows, attack.cover, name, settings, seed)


def _changed(
    rows: pd.DataFrame,
    function: Callable[..., np.ndarray],
    name: str,
    settings: Any,
    seed: int,
    **more: Any,
) -> TriggeredImages:
    if rows.empty:
        return TriggeredImages([], [], 0.0)
    before = pixels.decode(rows["image"].tolist(), where_of(rows))
    after = function(before, rows["example_id"].to_numpy(), settings, seed, **more)
    change = float(np.abs(after.astype(np.int16) - before).mean())
    encoded = [pixels.encode(image) for image in track(list(after), "encode triggered images")]
    return TriggeredImages(encoded, [name] * len(rows), change)
