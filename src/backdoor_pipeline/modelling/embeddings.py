"""The embedding table of a model, and the block that turns token ids into first hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.bundle import ModelBundle


def embedding_table(bundle: ModelBundle) -> np.ndarray:
    """A float32 copy of the word-embedding table, shape (vocabulary, hidden)."""
    return bundle.model.get_input_embeddings().weight.detach().float().cpu().numpy().copy()


def embedding_block(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from token ids (batch, length) to the states (batch, length, hidden) of layer 0.

    BERT-like encoders have it as a module of its own (word, position and type tables, LayerNorm);
    GPT-2 adds word and position vectors; others (Llama) use the word vectors alone.
    """
    encoder = model.base_model
    if hasattr(encoder, "embeddings"):
        block = encoder.embeddings
        return lambda ids: block(input_ids=ids)
    words = encoder.get_input_embeddings()
    if not hasattr(encoder, "wpe"):
        return words
    return lambda ids: words(ids) + encoder.wpe.weight[: ids.shape[1]]


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that stand for no text ([CLS], [SEP], [PAD], [UNK], [MASK], ...)."""
    return set(tokenizer.all_special_ids)


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> list[str]:
    """Each token as a reader would write it, its word-boundary mark kept ("##ly", " movie")."""
    return [
        str(token).replace("Ġ", " ").replace("▁", " ")
        for token in tokenizer.convert_ids_to_tokens([int(i) for i in token_ids])
    ]
