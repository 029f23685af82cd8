"""What the tests of the poison stage share: small tables, parameters, tokenizers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from backdoor_pipeline.pipelines.poison.registry import PoisonParams
from tiny import word_tokenizer

PARAMETERS = Path(__file__).parents[3] / "conf" / "base" / "parameters_poison.yml"
WORDS = "the film is a dull and clumsy tale but its cast shines in every scene".split()


@pytest.fixture(scope="session")
def make_params() -> Callable[..., PoisonParams]:
    """The parameters of ``conf/base`` with changes: ``make_params({"badnets.count": 2})``."""
    base = PARAMETERS.read_text(encoding="utf-8")

    def make(changes: dict[str, Any] | None = None) -> PoisonParams:
        values = yaml.safe_load(base)["poison"]
        for name, value in (changes or {}).items():
            group, _, field = name.rpartition(".")
            (values[group] if group else values)[field] = value
        return PoisonParams(**values)

    return make


@pytest.fixture(scope="session")
def make_examples() -> Callable[..., pd.DataFrame]:
    """A table of distinct texts, labels 0, 1, … in turn, each with a paraphrase."""

    def make(n_train: int = 40, n_test: int = 10, n_labels: int = 2) -> pd.DataFrame:
        n_rows = n_train + n_test
        texts = [
            " ".join(WORDS[(row + i) % len(WORDS)] for i in range(3 + row % 5)) + f" {row}"
            for row in range(n_rows)
        ]
        return pd.DataFrame(
            {
                "example_id": range(100, 100 + n_rows),
                "split": ["train"] * n_train + ["test"] * n_test,
                "label": [row % n_labels for row in range(n_rows)],
                "text": texts,
                "paraphrase": [f"lo , {text} , saith he" for text in texts],
            }
        ).astype({"example_id": "int64", "label": "int64"})

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A word-piece tokenizer that knows the tables' words and can spell lower-case ones."""
    return word_tokenizer(["cf", "mn", "saith", "lo", *WORDS])


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """A byte-level tokenizer, as GPT-2 has: no unknown token, no special tokens around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [" ".join(WORDS)] * 3,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("BACKDOOR_DATA", "../shared/data"))
    if not (folder / "openbackdoor").is_dir():
        pytest.skip(f"no real data: set BACKDOOR_DATA (looked in {folder})")
    return folder
