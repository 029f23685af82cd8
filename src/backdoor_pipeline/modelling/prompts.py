"""Sentences that name a class: captions of images without any, prompts of zero-shot classification.

A template has ``{}`` where the name goes. Numbers below ten are spelt out, because encoders of
texts know "seven" better than "7".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import numpy as np
from pydantic import AfterValidator, Field

from backdoor_pipeline.errors import InputError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACE = "{}"


def _with_one_place(template: str) -> str:
    if template.count(PLACE) != 1 or not template.replace(PLACE, "").strip():
        raise ValueError(
            f"the template {template!r} needs words, and {PLACE} once, where the class's name goes"
        )
    return template


Template = Annotated[str, AfterValidator(_with_one_place)]
Templates = Annotated[list[Template], Field(min_length=1)]


class HasTemplates(Protocol):
    """What captions and prompts need to know of the ingest stage."""

    caption_templates: list[str] | None


def spoken(label_names: Sequence[str]) -> list[str]:
    """What sentences call the classes: underscores are blanks, numbers below ten are words.

    Raises:
        InputError: Two classes would be called the same, or one has no name.
    """
    names = [
        NUMBERS[int(name)]
        if name.isascii() and name.isdigit() and len(name) == 1
        else " ".join(name.replace("_", " ").split())
        for name in label_names
    ]
    twice = sorted({name for name in names if not name or names.count(name) > 1})
    if twice:
        raise InputError(
            f"captions cannot tell the classes apart: {names.count(twice[0])} are called "
            f"{twice[0]!r}; rename the labels"
        )
    return names


def prompts(label_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Of each class, all ``templates`` filled with its name.

    Raises:
        InputError: As ``spoken``.
    """
    return [
        [template.replace(PLACE, name) for template in templates] for name in spoken(label_names)
    ]


def captions(
    labels: np.ndarray,
    example_ids: np.ndarray,
    label_names: Sequence[str],
    templates: Sequence[str],
    seed: int,
) -> list[str]:
    """A caption for each row, which names its class in one of the ``templates``.

    A row's template depends on its id and ``seed`` alone, not on the rows beside it.

    Args:
        labels: Class numbers, shape (n_rows,).
        example_ids: Shape (n_rows,), from 0.
        label_names: The name of each class.
        templates: To draw from.
        seed: Of the draw.

    Raises:
        InputError: As ``spoken``.
    """
    filled = prompts(label_names, templates)
    highest = int(example_ids.max(initial=-1))
    drawn = np.random.default_rng(seed).integers(len(templates), size=highest + 1)
    chosen = drawn[example_ids]
    return [filled[label][template] for label, template in zip(labels, chosen, strict=True)]
