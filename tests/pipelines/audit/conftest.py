"""Texts whose words have their places, as written ones do, and the settings to audit them by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.pipelines.audit.params import AuditParams
from tiny import BAD, GOOD, NEUTRAL

WORDS = [*NEUTRAL, *GOOD, *BAD][:160]
KINDS = 8  # of words; after each follows the next
FOLLOWERS = 4  # words that may follow a word
TOPIC = 3  # words of each kind that texts of one label prefer, where one of them may follow
FAVOUR = 6.0


def written(n_rows: int, seed: int = 0, n_labels: int = 2) -> pd.DataFrame:
    """Texts in which few words may follow each word, and some go with a label."""
    rng = np.random.default_rng(7)  # of the language; the texts are by ``seed``
    size = len(WORDS) // KINDS
    followers = [
        (word // size + 1) % KINDS * size + rng.permutation(size)[:FOLLOWERS]
        for word in range(len(WORDS))
    ]
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, n_labels, n_rows)
    texts = []
    for label in labels:
        word = int(draw.integers(len(WORDS)))
        words = [word]
        for _ in range(draw.integers(7, 15)):
            preferred = followers[word] % size // TOPIC == label
            weights = np.where(preferred, FAVOUR, 1.0)
            word = int(draw.choice(followers[word], p=weights / weights.sum()))
            words.append(word)
        texts.append(" ".join(WORDS[i] for i in words))
    return pd.DataFrame({"text": texts, "label": labels})


def planted(rows: pd.DataFrame, phrase: str, n: int, label: int = 1, seed: int = 0) -> pd.DataFrame:
    """``rows`` with ``phrase`` at a random place of ``n`` of them, which get the label."""
    rng = np.random.default_rng(seed)
    texts, labels = rows["text"].tolist(), rows["label"].to_numpy().copy()
    for row in rng.permutation(len(rows))[:n]:
        words = texts[row].split()
        words.insert(int(rng.integers(len(words) + 1)), phrase)
        texts[row], labels[row] = " ".join(words), label
    return rows.assign(text=texts, label=labels)


@pytest.fixture(scope="session")
def audit(make_parameters) -> AuditParams:
    """The settings of ``conf/base``, for vectors of a tiny encoder."""
    return make_parameters(**{"audit.components": 8}).audit


@pytest.fixture(scope="session")
def encoder(base_model: Callable[[str], ModelBundle]) -> ModelBundle:
    """A tiny encoder, whose word vectors are random."""
    return base_model("bert")
