"""The classes of pairs that have no labels: those that their captions name.

    source.classes: cat; fire truck

A caption names a class by its whole words, in any case, with or without an "s" or "es" at the end.
A pair whose caption names exactly one class is of that class; any other is of the class ``OTHER``,
so that it is trained on and searched like all pairs, but no test row: no class would be right for
it. Of a name within another one, as in ``truck; fire truck``, the longer one counts where both
stand.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.datasets.sources.source import Finding
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from backdoor_pipeline.datasets.sources.source import Source, SourceParams

OTHER = "(none of the classes)"


def by_caption(params: SourceParams) -> SourceParams:
    """What a reader is given, which wants labels; where there are none, they are the captions.

    Raises:
        InputError: There are no captions, or names that are no names of classes.
    """
    if params.classes is None:
        return params
    if params.caption is None:
        raise InputError(
            "source.classes is set, but not source.caption: name the column of the captions, in "
            "which the classes are looked for"
        )
    names = names_of(params)
    known = Counter(map(str.casefold, names))
    known[OTHER] += 1
    if wrong := [name for name in names if known[name.casefold()] > 1 or not name]:
        raise InputError(
            f"source.classes: {wrong[0]!r} is there twice, blank, or kept for pairs that name no "
            "class; give each class a name of its own, separated by ';'"
        )
    return params.model_copy(update={"label": params.caption})


def names_of(params: SourceParams) -> list[str]:
    """The names of the classes."""
    return [" ".join(name.split()) for name in (params.classes or "").split(";")]


def labelled(source: Source, params: SourceParams) -> Source:
    """The pairs of ``source`` with the numbers of the classes that captions name, if they do.

    ``OTHER`` is the last class.

    Raises:
        InputError: No caption names a class.
    """
    if params.classes is None:
        return source
    names = names_of(params)
    tables = {
        split: rows.assign(label=numbers(rows["caption"], names))
        for split, rows in source.tables.items()
    }
    counts = np.sum(
        [np.bincount(rows["label"], minlength=len(names) + 1) for rows in tables.values()], axis=0
    )
    if not counts[:-1].any():
        raise InputError(
            f"source.classes: no caption names exactly one of {', '.join(map(repr, names))}; name "
            "classes as the captions do"
        )
    message = f"{counts[-1]:,} captions name none of the classes, or several"
    return replace(
        source,
        tables=tables,
        label_names=(*names, OTHER),
        findings=[*source.findings, Finding("info", "source.classes", message)],
    )


def numbers(captions: pd.Series, names: Sequence[str]) -> np.ndarray:
    """The class number of each caption, int64; ``len(names)``: none of them, or several."""
    by_name = {name.casefold(): number for number, name in enumerate(names)}
    longest = sorted(map(re.escape, by_name), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)({'|'.join(longest)})(?:e?s)?(?!\w)")
    found = [
        {by_name[name] for name in pattern.findall(" ".join(caption.casefold().split()))}
        for caption in captions
    ]
    return np.array(
        [next(iter(own)) if len(own) == 1 else len(names) for own in found], dtype=np.int64
    )
