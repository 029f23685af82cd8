"""What suspects mean for an unlearner: which training rows are to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import labelled
from backdoor_pipeline.schemas import flagged_tokens

if TYPE_CHECKING:
    import pandas as pd

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.training import Labelled


def forget_set(
    train: pd.DataFrame, suspects: pd.DataFrame, bundle: Bundle, max_length: int
) -> np.ndarray:
    """Which rows of ``train`` are to be forgotten, bool, shape (n_rows,).

    Those that a detector flags; where it flags tokens, those that hold one.
    """
    examples = suspects.loc[(suspects["kind"] == "example") & suspects["flagged"], "key"]
    chosen = train["example_id"].isin(examples).to_numpy()
    tokens = flagged_tokens(suspects)
    if len(tokens) and "text" in train:
        texts = tokenise(train["text"], bundle.tokenizer, max_length)  # type: ignore[union-attr]
        chosen = chosen | texts.contain(tokens)
    return chosen


def parted(
    train: pd.DataFrame, suspects: pd.DataFrame, bundle: Bundle, max_length: int
) -> tuple[Labelled, Labelled]:
    """The rows to forget, and all others, as the model of ``bundle`` reads them."""
    forget = forget_set(train, suspects, bundle, max_length)
    data = labelled(train, bundle, max_length)
    return data.take(np.flatnonzero(forget)), data.take(np.flatnonzero(~forget))
