"""The embedding table of a model, and the block that turns token ids into first hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.bundle import ModelBundle


def embedding_table(bundle: ModelBundle) -> np.ndarray:
    """A float32 copy of the word-embedding table, shape (vocabulary, hidden)."""
    return word_vectors(bundle.model).detach().float().cpu().numpy().copy()


def word_vectors(model: PreTrainedModel) -> torch.nn.Parameter:
    """The parameter that holds the word-embedding table."""
    words: Any = model.get_input_embeddings()
    return words.weight


def embedding_block(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from token ids (batch, length) to the states (batch, length, hidden) of layer 0.

    BERT-like encoders have it as a module of its own (word, position and type tables, LayerNorm);
    GPT-2 adds word and position vectors; others (Llama) use the word vectors alone.
    """
    encoder: Any = model.base_model
    if hasattr(encoder, "embeddings"):
        block = encoder.embeddings
        return lambda ids: block(input_ids=ids)
    words = encoder.get_input_embeddings()
    if not hasattr(encoder, "wpe"):
        return words
    return lambda ids: words(ids) + encoder.wpe.weight[: ids.shape[1]]


def embedding_parameters(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The parameters that ``embedding_block`` computes with."""
    encoder: Any = model.base_model
    if hasattr(encoder, "embeddings"):
        modules = [encoder.embeddings]
    else:
        positions = [encoder.wpe] if hasattr(encoder, "wpe") else []
        modules = [encoder.get_input_embeddings(), *positions]
    return [parameter for module in modules for parameter in module.parameters()]


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that stand for no text ([CLS], [SEP], [PAD], [UNK], [MASK], ...)."""
    return set(tokenizer.all_special_ids)


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> list[str]:
    """Each token as a reader would write it, its word-boundary mark kept ("##ly", " movie").

    The mark of CLIP's tokenizers, at the end of a word, is not.

    A byte-level token that is only part of a character stays as the vocabulary writes it.
    """
    return [
        _readable(tokenizer, str(token))
        for token in tokenizer.convert_ids_to_tokens([int(i) for i in token_ids])
    ]


def _readable(tokenizer: Any, token: str) -> str:
    plain = token.removesuffix("</w>").replace("Ġ", " ").replace("▁", " ")
    if plain.isascii():
        return plain
    text = tokenizer.convert_tokens_to_string([token])
    if not text or "\ufffd" in text:
        return plain
    return f" {text.lstrip()}" if plain.startswith(" ") else text
