"""Models by hub id, folder or packaged name: checked first, then loaded from safetensors only.

Nothing in a model folder is executed (no remote code) or unpickled.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import prefixes
from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.folders import (
    PACKAGED,
    PREFIX,
    ModelParams,
    check_model_folder,
    model_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "pooler_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""Names that architectures give to their dropout probabilities."""


def load_tokenizer(params: ModelParams) -> PreTrainedTokenizerBase:
    """The tokenizer of the pretrained model, with a padding token and right padding.

    Raises:
        InputError: See ``load_pretrained``.
    """
    from transformers import AutoTokenizer

    source = _checked_source(params)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_hub_options(params))
    except Exception as error:  # a broken folder fails in a dozen ways
        raise _cannot_load(params, error, "tokenizer") from None
    if not tokenizer.is_fast:
        raise InputError(f"model '{params.name}' has no fast tokenizer (tokenizer.json)")
    return with_padding(tokenizer)


def load_pretrained(params: ModelParams) -> ModelBundle:
    """The public pretrained encoder, float32, in evaluation mode, with its tokenizer.

    Raises:
        InputError: The folder or hub id does not exist or cannot be reached, has no tokenizer, only
            pickled weights, weights that do not belong to its configuration, or a tokenizer with
            more entries than the embedding table.
    """
    import torch
    from transformers import AutoModel

    quiet_transformers()
    tokenizer = load_tokenizer(params)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # parameters that the file lacks (a pooler) are drawn
            model, info = AutoModel.from_pretrained(
                _checked_source(params),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **_hub_options(params),
            )
    except Exception as error:  # a broken folder fails in a dozen ways
        raise _cannot_load(params, error, "model") from None
    check_vocabulary(params.name, tokenizer, model)
    mismatched = sorted(map(str, info.get("mismatched_keys") or []))
    if mismatched:
        raise InputError(
            f"model '{params.name}': weights and config.json disagree on {mismatched[0]}"
        )
    n_layers = getattr(model.config, "num_hidden_layers", 0)
    if n_layers and len(info["missing_keys"]) > len(model.state_dict()) // 2:
        raise InputError(
            f"model '{params.name}': the weights file lacks most of the parameters of a "
            f"{model.config.model_type} model (e.g. {sorted(info['missing_keys'])[0]})"
        )
    limit = positions(model)
    if limit and params.max_length > limit:
        raise InputError(
            f"model.max_length {params.max_length} is beyond the {limit} positions of model "
            f"'{params.name}'; lower it"
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return ModelBundle(model.eval(), tokenizer)


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens a text may have; None if the architecture sets no limit.

    RoBERTa and its kin number positions from the padding id + 1, so they have fewer than rows.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    embeddings = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return limit if limit is None or padding is None else limit - padding - 1


def load_classifier(folder: Path) -> ModelBundle:
    """A classifier and its tokenizer from a folder that ``ClassifierDataset`` or a user wrote.

    If there is a prefix beside it (``prefix/``), the classifier is behind it.

    Raises:
        InputError: As ``load_pretrained``; or it has no head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    quiet_transformers()
    params = ModelParams(name=str(folder), max_length=1)
    tokenizer = load_tokenizer(params)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **_hub_options(params),
        )
        if (folder / PREFIX).exists():
            model = prefixes.load(model, folder)
    except InputError:
        raise
    except Exception as error:  # a broken folder fails in a dozen ways
        raise _cannot_load(params, error, "model") from None
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"model '{folder}': the weights file has no {missing[0]}; is it a finished "
            "classifier, with its head?"
        )
    check_vocabulary(str(folder), tokenizer, model)
    return ModelBundle(model.eval(), tokenizer)


def new_classifier(
    pretrained: ModelBundle, n_classes: int, seed: int, dropout: float | None = None
) -> ModelBundle:
    """A fresh classifier on the pretrained encoder; its head is drawn from ``seed``.

    ``pretrained`` is left as it is: the encoder's weights are copied. ``dropout`` replaces all
    dropout probabilities of the encoder's configuration; None keeps them.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(pretrained.model.config)
    config.num_labels = n_classes
    for name in DROPOUTS if dropout is not None else ():
        if getattr(config, name, None) is not None:
            setattr(config, name, dropout)
    config.problem_type = "single_label_classification"
    config.pad_token_id = pretrained.tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    missing = model.base_model.load_state_dict(pretrained.model.state_dict(), strict=False)
    if missing.missing_keys:
        raise InputError(
            f"a {config.model_type} classifier cannot be built on this encoder: it lacks "
            f"{missing.missing_keys[0]}"
        )
    return ModelBundle(model, pretrained.tokenizer)


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the right; without a padding token, the end token serves as one."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise InputError(
                "the tokenizer has neither a padding, an end nor an unknown token; add one with "
                "`tokenizer.add_special_tokens({'pad_token': '[PAD]'})` and resize the model"
            )
        tokenizer.pad_token = substitute
    return tokenizer


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    """Nothing, if every token id of the tokenizer has a row in the embedding table.

    Raises:
        InputError: It has not.
    """
    words = getattr(model.get_input_embeddings(), "weight", None)
    if words is None or words.dim() != 2:  # noqa: PLR2004
        raise InputError(f"model '{name}' has no word embeddings: it is no text model")
    rows = words.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise InputError(
            f"model '{name}': the tokenizer goes up to id {highest}, but the embedding table has "
            f"only {rows} rows; tokenizer and weights do not belong together"
        )


def quiet_transformers() -> None:
    """Keep the progress bars and load reports of transformers out of the run's output."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _checked_source(params: ModelParams) -> str:
    folder = model_folder(params.name)
    if folder is None:
        return params.name
    check_model_folder(folder)
    return str(folder)


def _hub_options(params: ModelParams) -> dict[str, object]:
    local = model_folder(params.name) is not None
    revision = {} if local or params.revision is None else {"revision": params.revision}
    return {"local_files_only": local, "trust_remote_code": False, **revision}


def _cannot_load(params: ModelParams, error: Exception, what: str) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if model_folder(params.name) is None:
        return InputError(
            f"model.name '{params.name}' is neither a folder nor a packaged model "
            f"({', '.join(sorted(PACKAGED))}), and the hub gave no {what} of that name; check the "
            f"spelling and the network, or download it and give the folder ({reason})"
        )
    return InputError(f"model '{params.name}': the {what} cannot be read ({reason})")
