"""The word-embedding table and the first block of every architecture."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.modelling.embeddings import (
    decode,
    embedding_block,
    embedding_table,
    special_token_ids,
)
from backdoor_pipeline.modelling.loading import new_classifier
from tiny import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_block_gives_the_states_of_layer_0(base_model, architecture) -> None:
    import torch

    model = new_classifier(base_model(architecture), 2, seed=0).model.eval()
    ids = torch.tensor([[5, 9, 11, 7], [3, 5, 6, 8]])
    with torch.no_grad():
        states = embedding_block(model)(ids)
        expected = model.base_model(ids, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_a_copy(base_model, architecture) -> None:
    bundle = base_model(architecture)
    table = embedding_table(bundle)
    assert table.shape == (len(bundle.tokenizer), 32)
    assert table.dtype == np.float32
    table[:] = 0
    assert embedding_table(bundle).any()


def test_special_tokens_stand_for_no_text(base_model) -> None:
    assert special_token_ids(base_model().tokenizer) == {0, 1, 2, 3, 4}


def test_decode_keeps_the_word_boundary(base_model) -> None:
    tokenizer, byte_level = base_model().tokenizer, base_model("gpt2").tokenizer
    pieces = tokenizer("filmx", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, np.array(pieces)) == ["film", "##x"]
    assert decode(byte_level, np.array(byte_level(" film")["input_ids"])) == [" film"]


def test_the_mark_at_the_end_of_a_word_of_clip_is_not_shown() -> None:
    class Clip:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["ban", "ana</w>"]

    assert decode(Clip(), np.array([0, 1])) == ["ban", "ana"]


def test_byte_level_tokens_are_decoded(base_model) -> None:
    tokenizer = base_model("roberta").tokenizer
    ids = tokenizer(" film café", add_special_tokens=False)["input_ids"]
    tokens = decode(tokenizer, np.array(ids))
    assert tokens[0] == " film"
    assert not any("Ġ" in token for token in tokens)


def test_what_a_token_of_bytes_stands_for() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" café"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert decode(tokenizer, np.array(tokenizer(" café")["input_ids"])) == [" café"]
    part = decode(tokenizer, np.array(tokenizer("≈")["input_ids"]))
    assert len(part) == 3
    assert all(part)
