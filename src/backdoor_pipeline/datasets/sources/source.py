"""What every reader takes (``SourceParams``) and gives (``Source``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from backdoor_pipeline.parameter_group import ParameterGroup

if TYPE_CHECKING:
    import pandas as pd

    from backdoor_pipeline.datasets.sources.known import Known

DEFAULT_DATASET, DEFAULT_IMAGES = "rotten_tomatoes", "mnist_digits"


class SourceParams(ParameterGroup):
    """Where the texts or images come from.

    Attributes:
        dataset: a known set (``names.KNOWN_NAMES``), or the kind of the user's own data:
            ``openbackdoor``, ``poison_cache``, ``table``, ``huggingface``; of images
            ``image_table``, ``image_folder``, ``cifar_binary``, of pairs also ``caption_table``.
            The suffix ``@repaired`` asks for the repairs of the ingest stage, ``@paper`` (or none)
            for the set as published.
        folder: root under which the known sets lie, in OpenBackdoor's folders.
        data: table file, folder or hub id of the user's own data.
        text: column that holds the text.
        label: column that holds the label.
        image: column of a caption table that holds the images' paths.
        caption: column of an image or caption table that holds the captions; null: there are none.
        classes: of pairs without labels, the names of the classes that their captions may name,
            separated by ";"; null: there are labels.
        split_column: column of a table that says train, dev or test.
        separator: what separates the cells of a table; null: by the file's extension.
        config_name: configuration of a data set on the Hugging Face hub.
        revision: its commit, tag or branch.
    """

    dataset: str
    folder: str
    text: str
    label: str
    data: str | None = None
    image: str = "image"
    caption: str | None = None
    classes: str | None = None
    split_column: str | None = None
    separator: str | None = None
    config_name: str | None = None
    revision: str | None = None

    @property
    def label_asked_by(self) -> str:
        """The parameter that names the column of labels; of pairs also what takes its place."""
        return "source.label" if self.caption is None else "source.label (or set source.classes)"


class Finding(NamedTuple):
    """Something about the data that a reader of the report should know."""

    severity: Literal["info", "warning", "error"]
    where: str
    message: str


@dataclass(frozen=True)
class Source:
    """The raw texts or images, as they stand in the files.

    Attributes:
        name: the data set, without variant.
        tables: split -> rows in file order, columns ``text`` (str) or ``image`` (bytes of a PNG or
            JPEG file), ``label`` (any scalar type, or class numbers if ``label_names`` is given),
            optionally ``group`` (rows of one group stay in one split), the ready-made paraphrases
            ``style`` and ``syntax`` (null: none), ``caption`` of an image and ``place`` (where an
            image is, for messages).
        files: name relative to the data set's root -> SHA-256, for every file read.
        findings: what the reader noticed.
        label_names: the name of each class number, where the source knows them.
        known: what to expect of the data set, if it is a known one.
        repaired: whether the ingest stage shall repair the splits.
    """

    name: str
    tables: dict[str, pd.DataFrame]
    files: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    label_names: tuple[str, ...] | None = None
    known: Known | None = None
    repaired: bool = False
