"""Texts restyled by a GPT-2 style model (STRAP: Krishna, Wieting and Iyyer, arXiv 2010.05700).

The model continues ``text <bos>`` with the restyled text. As in its training, the text is cut or
padded on the left to a fixed number of tokens, padding is read like any token, and the two halves
bear the model's second and third additional special token as token types, if it has them.

Departure: each text is sampled with random numbers of its own, keyed by its hash, so the result
does not depend on which texts share its batch.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ModelBundle

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.pipelines.poison.stylebkd import StyleBkdParams

logger = logging.getLogger(__name__)

SEGMENT_TOKENS = 3  # additional special tokens that a model with token types has at least


def load_style_model(folder: Path, params: StyleBkdParams) -> ModelBundle:
    """The causal language model and the tokenizer of a folder; safetensors, no code from it.

    Raises:
        InputError: The folder is missing, incomplete, holds a pickle or no causal language model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from backdoor_pipeline.modelling.device import ComputeParams, resolve_device
    from backdoor_pipeline.modelling.folders import ModelParams
    from backdoor_pipeline.modelling.loading import check_vocabulary, load_tokenizer

    if not folder.is_dir():
        raise InputError(
            f"poison.stylebkd.style_model '{folder}': there is no such folder; give the folder of "
            "a GPT-2 style model"
        )
    tokenizer = load_tokenizer(ModelParams(name=str(folder), max_length=params.input_tokens))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"poison.stylebkd.style_model '{folder}': {error}") from None
    check_vocabulary(str(folder), tokenizer, model)
    device = resolve_device(ComputeParams(device=params.device, precision="fp32"))
    return ModelBundle(model.eval().to(device), tokenizer)


def restyle(texts: list[str], bundle: ModelBundle, params: StyleBkdParams, seed: int) -> list[str]:
    """Each text in the model's style; equal texts are generated once.

    Raises:
        InputError: The model reads too few tokens for these settings, or has no start token.
    """
    _check_settings(bundle, params)
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    restyled: dict[str, str] = {}
    for start in range(0, len(distinct), params.batch_size):
        batch = distinct[start : start + params.batch_size]
        restyled.update(zip(batch, _restyle_batch(batch, bundle, params, seed), strict=True))
        logger.info("restyled %d of %d texts", start + len(batch), len(distinct))
    return [restyled[text] for text in texts]


def _check_settings(bundle: ModelBundle, params: StyleBkdParams) -> None:
    if bundle.tokenizer.bos_token_id is None:
        raise InputError(
            "poison.stylebkd.style_model: its tokenizer has no start token (bos), which a style "
            "model is asked with; is it one?"
        )
    longest = 2 * params.input_tokens + 1 + params.extra_tokens
    limit = getattr(bundle.model.config, "max_position_embeddings", longest)
    if longest > limit:
        raise InputError(
            f"poison.stylebkd.input_tokens {params.input_tokens}: text and result take up to "
            f"{longest} tokens, but the style model has {limit} positions; lower it"
        )


def _restyle_batch(
    texts: list[str], bundle: ModelBundle, params: StyleBkdParams, seed: int
) -> list[str]:
    import torch

    model, tokenizer = bundle
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    sources = tokenizer(
        texts, add_special_tokens=False, truncation=True, max_length=params.input_tokens
    )["input_ids"]
    n_new = np.array([len(ids) + params.extra_tokens for ids in sources])
    prompts = [
        [pad] * (params.input_tokens - len(ids)) + ids + [tokenizer.bos_token_id] for ids in sources
    ]
    draws = np.stack([_uniforms(text, seed, n_new.max()) for text in texts])
    uniforms = torch.from_numpy(draws.astype(np.float32)).to(model.device)
    source_type, result_type = _token_types(tokenizer)
    ids = torch.tensor(prompts, device=model.device)
    types = torch.full_like(ids, source_type)
    types[:, -1] = result_type
    cache, generated = None, []
    with torch.inference_mode():
        for step in range(n_new.max()):
            typed = {"token_type_ids": types} if source_type != result_type else {}
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, **typed)
            cache = out.past_key_values
            ids = sample_nucleus(out.logits[:, -1], params.top_p, uniforms[:, step])[:, None]
            types = torch.full_like(ids, result_type)
            generated.append(ids)
    results = torch.cat(generated, dim=1).tolist()
    return [
        str(tokenizer.decode(_until(ids[:n], tokenizer.eos_token_id), skip_special_tokens=True))
        for ids, n in zip(results, n_new, strict=True)
    ]


def sample_nucleus(logits: torch.Tensor, top_p: float, uniforms: torch.Tensor) -> torch.Tensor:
    """One token id a row, int64, (n_rows,), from the likeliest tokens of joint mass ``top_p``.

    The nucleus is the shortest list of likeliest tokens whose mass reaches ``top_p``. ``logits``
    (n_rows, n_tokens) and ``uniforms`` in [0, 1), (n_rows,) decide the draw.
    """
    import torch

    probabilities, order = logits.float().softmax(dim=-1).sort(dim=-1, descending=True)
    mass = probabilities.cumsum(dim=-1)
    last = (mass < top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    threshold = uniforms[:, None] * mass.gather(-1, last)
    rank = torch.searchsorted(mass, threshold, right=True).minimum(last)
    return order.gather(-1, rank)[:, 0]


def _token_types(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The token types of a text and of its result; equal if the model has none."""
    names = list(tokenizer.extra_special_tokens)
    if len(names) < SEGMENT_TOKENS:
        return 0, 0
    vocabulary = tokenizer.get_vocab()
    return vocabulary[names[1]], vocabulary[names[2]]


def _uniforms(text: str, seed: int, n: int) -> np.ndarray:
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16])]).random(n)


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
