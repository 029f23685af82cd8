"""The integrity gate: what is odd about a data set, before it is used."""

from __future__ import annotations

import io
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import Finding, Source
from backdoor_pipeline.schemas import SPLITS, content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdoor_pipeline.datasets.sources.known import Known

_FEW = 5  # classes named in one message
_MANY = 0.01  # repeated texts up to this share of a split are ordinary


def text_codes(texts: pd.Series) -> np.ndarray:
    """Returns the number of each text; texts that differ in case or spacing alone share one."""
    return pd.factorize(texts.str.lower())[0]


def content_codes(rows: pd.DataFrame) -> np.ndarray:
    """Returns the number of each row's text or image; only images of the same bytes share one."""
    return text_codes(rows["text"]) if "text" in rows else pd.factorize(rows["image"])[0]


def check_files(source: Source) -> list[Finding]:
    """Returns the files that differ from the known copy, and those that are the same file twice."""
    known = source.known.sha256 if source.known else {}
    findings = [
        Finding("warning", name, "differs from the copy that this project was measured on")
        for name, sha256 in source.files.items()
        if name in known and known[name] != sha256
    ]
    own = {name: sha256 for name, sha256 in source.files.items() if "/" not in name}
    return findings + [
        Finding(
            "warning", f"{one}, {other}", "are the same file: what is tuned on it is tested on it"
        )
        for one, other in combinations(own, 2)
        if own[one] == own[other]
    ]


def check_counts(known: Known | None, rows: pd.DataFrame, n_classes: int) -> list[Finding]:
    """Returns the splits and classes whose row counts are not the known ones."""
    if known is None:
        return []
    kind = "known" if known.measured else "published"
    findings = []
    for split, expected in known.rows.items():
        labels = rows.loc[rows["split"] == split, "label"]
        if labels.empty:
            continue
        total = expected if isinstance(expected, int) else sum(expected)
        if len(labels) != total:
            message = f"{len(labels):,} rows, but the {kind} set has {total:,}"
            findings.append(Finding("warning", split, message))
        elif not isinstance(expected, int):
            counts = np.bincount(labels, minlength=n_classes).tolist()
            if counts != list(expected):
                message = f"classes have {counts} rows, but in the {kind} set {list(expected)}"
                findings.append(Finding("warning", split, message))
    return findings


def check_contents(rows: pd.DataFrame, codes: np.ndarray) -> list[Finding]:
    """Returns repeated texts or images, those in two splits, and those with two labels."""
    findings, kind = [], content(rows)
    by_split = {split: codes[rows["split"] == split] for split in SPLITS}
    for split, mine in by_split.items():
        repeated = len(mine) - len(np.unique(mine))
        if repeated:
            message = f"{repeated:,} rows repeat an earlier {kind}"
            many = repeated > _MANY * len(mine)
            findings.append(Finding("warning" if many else "info", split, message))
    for (one, mine), (other, theirs) in combinations(by_split.items(), 2):
        shared = int(np.isin(mine, theirs).sum())
        if shared:
            message = f"{shared:,} of {len(mine):,} {one} rows also stand in {other}"
            findings.append(Finding("warning", f"{one}, {other}", message))
    first_label = rows["label"].to_numpy()[np.unique(codes, return_index=True)[1]]
    differs = rows["label"].to_numpy() != first_label[codes]
    if differs.any():
        n_different = len(np.unique(codes[differs]))
        example = rows["example_id"].to_numpy()[differs.argmax()]
        message = f"{n_different:,} {kind}s have two labels, one of them is example {example}"
        findings.append(Finding("warning", "labels", message))
    return findings


def check_captions(images: pd.Series, captions: pd.Series) -> list[Finding]:
    """Returns how many images stand there again with the same caption, if any.

    Args:
        images: PNG or JPEG files.
        captions: of each.
    """
    pairs = pd.DataFrame({"image": pd.factorize(images)[0], "caption": captions})
    repeated = int(pairs.duplicated().sum())
    if not repeated:
        return []
    message = f"{repeated:,} pairs repeat an earlier one, image and caption"
    many = repeated > _MANY * len(pairs)
    return [Finding("warning" if many else "info", "captions", message)]


def check_classes(rows: pd.DataFrame, label_names: Sequence[str]) -> list[Finding]:
    """Returns an error if the training rows have one class only; warns of classes missing."""
    findings = []
    classes = {split: set(rows.loc[rows["split"] == split, "label"]) for split in SPLITS}
    if len(classes["train"]) == 1:
        name = label_names[next(iter(classes["train"]))]
        message = f"all rows have the label {name!r}; a classifier needs at least two classes"
        return [Finding("error", "train", message)]
    for split, present in classes.items():
        absent = [name for number, name in enumerate(label_names) if number not in present]
        if absent:
            more = f" and {len(absent) - _FEW} more" if len(absent) > _FEW else ""
            message = f"no rows of class {', '.join(absent[:_FEW])}{more}"
            findings.append(Finding("warning", split, message))
    return findings


def report(
    source: Source,
    read: pd.Series,
    rows: pd.DataFrame,
    label_names: Sequence[str],
    findings: Sequence[Finding],
    left_out: int,
) -> dict[str, Any]:
    """Returns the integrity report, ready for JSON.

    Args:
        source: the raw texts or images.
        read: the split of each row as read.
        rows: the rows as used, after repair, cuts and cap.
        label_names: of the classes.
        findings: all of them.
        left_out: rows that the cap left out.
    """
    known = source.known.sha256 if source.known else {}
    splits = {}
    for split in SPLITS:
        labels = rows.loc[rows["split"] == split, "label"]
        counts = np.bincount(labels, minlength=len(label_names)).tolist()
        splits[split] = {
            "rows_read": int((read == split).sum()),
            "rows": len(labels),
            "classes": dict(zip(label_names, counts, strict=True)),
        }
        if "paraphrase" in rows:
            present = rows.loc[labels.index, "paraphrase"].notna()
            splits[split]["paraphrases"] = int(present.sum())
    return {
        "dataset": source.name,
        "variant": "repaired" if source.repaired else "paper",
        "label_names": list(label_names),
        "splits": splits,
        "rows_left_out": left_out,
        "files": {
            name: {"sha256": sha256, "known": known[name] == sha256 if name in known else None}
            for name, sha256 in source.files.items()
        },
        "findings": [finding._asdict() for finding in findings],
    }


def check_colours(images: Sequence[bytes]) -> list[Finding]:
    """Returns what decoding changes: grey images among coloured ones, and transparency.

    Args:
        images: PNG or JPEG files that can be read.
    """
    from PIL import Image

    modes = []
    for encoded in images:
        with Image.open(io.BytesIO(encoded)) as image:
            modes.append("P+A" if "transparency" in image.info else image.mode)
    n_grey = sum(mode in {"1", "L", "LA"} for mode in modes)
    n_transparent = sum(mode.endswith("A") for mode in modes)
    findings = []
    if 0 < n_grey < len(modes):
        message = f"{n_grey:,} of {len(modes):,} images are grey: they are kept as coloured ones"
        findings.append(Finding("warning", "images", message))
    if n_transparent:
        message = f"{n_transparent:,} of {len(modes):,} images have transparency, which is dropped"
        findings.append(Finding("info", "images", message))
    return findings
