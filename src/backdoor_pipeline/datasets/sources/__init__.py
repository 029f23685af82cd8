"""Where texts and images come from: a module a kind of source, with ``read`` and ``digest``."""

from __future__ import annotations

from types import ModuleType

from backdoor_pipeline.datasets.sources import (
    caption_table,
    cifar_binary,
    huggingface,
    image_folder,
    image_table,
    known_images,
    mnist_digits,
    movie_reviews,
    named_classes,
    openbackdoor,
    poison_cache,
    table,
)
from backdoor_pipeline.datasets.sources.clean import second_source
from backdoor_pipeline.datasets.sources.names import is_known, modality, resolve
from backdoor_pipeline.datasets.sources.source import DEFAULT_DATASET, Finding, Source, SourceParams

__all__ = [
    "DEFAULT_DATASET",
    "Finding",
    "Source",
    "SourceParams",
    "digest",
    "is_known",
    "modality",
    "read",
    "second_source",
]

_READERS = {
    "rotten_tomatoes": movie_reviews,
    "table": table,
    "poison_cache": poison_cache,
    "huggingface": huggingface,
    "mnist_digits": mnist_digits,
    "cifar10": known_images,
    "image_table": image_table,
    "caption_table": caption_table,
    "image_folder": image_folder,
    "cifar_binary": cifar_binary,
}


def read(params: SourceParams) -> Source:
    """Returns the raw texts or images that ``params`` asks for.

    Raises:
        InputError: an unknown data set, a file that is missing or that cannot be read as asked.
    """
    source = _reader(params).read(named_classes.by_caption(params))
    return named_classes.labelled(source, params)


def digest(params: SourceParams) -> str:
    """Returns a digest of the contents of all source files, or ``"missing"`` if there are none.

    A data set on the hub has ``id@revision`` instead: nothing is fetched for it.

    Raises:
        InputError: an unknown data set, or classes that captions cannot name.
    """
    return _reader(params).digest(named_classes.by_caption(params))


def _reader(params: SourceParams) -> ModuleType:
    return _READERS.get(resolve(params).name, openbackdoor)
