"""Models whose every layer attends to a few trained keys and values more, by peft (prefix tuning).

Source: arXiv 2101.00190. It is the one part that cannot be merged into ordinary weights. Such a
model is saved as the ordinary classifier, with its head, and beside it the prefix in peft's own
format (``prefix/``), so that transformers and peft alone load it::

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, f"{folder}/prefix")

The texts' positions are counted from the end of the prefix.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import PREFIX, PREFIX_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

ARCHITECTURES = ("bert", "roberta", "gpt2", "llama")
"""Those whose layers take keys and values from outside."""

HEADS = ("classifier", "score")


def with_prefix(model: PreTrainedModel, n_tokens: int) -> PreTrainedModel:
    """``model`` behind a new prefix; only the prefix is trainable.

    Args:
        model: A classifier, which becomes part of the result.
        n_tokens: Length of the prefix, drawn from torch's generator.

    Raises:
        InputError: The architecture takes no prefix.
    """
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    check_architecture(model)
    config = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=n_tokens)
    prefixed = _with_its_own_head(get_peft_model, model, config)
    model.requires_grad_(False)
    return prefixed


def ordinary(model: PreTrainedModel) -> PreTrainedModel:
    """The model of transformers without its prefix, if it has one: the same object."""
    inner: Any = getattr(model, "get_base_model", lambda: model)  # importing peft takes a second
    return inner()


def check_architecture(model: PreTrainedModel) -> None:
    """Nothing, if a prefix can be put before ``model``.

    Raises:
        InputError: It cannot.
    """
    architecture = model.config.model_type
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"prefix: a {architecture} model takes none; choose a model of the architectures that "
            f"do ({', '.join(ARCHITECTURES)}) or a recipe without a prefix"
        )


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the model to ``folder``, safetensors only, and its prefix, if any, to ``prefix/``."""
    inner = ordinary(model)
    inner.save_pretrained(folder)
    if inner is model:
        return
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = cast("Any", model).active_peft_config
    replace(config, base_model_name_or_path=None, inference_mode=True).save_pretrained(
        str(folder / PREFIX)
    )
    head = {n: value for n, value in inner.state_dict().items() if n.split(".")[0] in HEADS}
    tensors = get_peft_model_state_dict(model) | {f"base_model.{n}": v for n, v in head.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, folder / PREFIX / PREFIX_WEIGHTS, {"format": "pt"})


def load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``model`` behind the prefix in ``folder``, which has been checked (``check_model_folder``).

    Raises:
        InputError: The architecture takes no prefix.
    """
    from peft import PeftModel

    check_architecture(model)
    place = str(folder / PREFIX)
    return _with_its_own_head(PeftModel.from_pretrained, model, place, torch_device="cpu")


def _with_its_own_head(make: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """What ``make`` makes of ``model``, but with the head in its place instead of peft's copy."""
    from peft.utils import ModulesToSaveWrapper

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # names of transformers that peft asks for
        prefixed = make(model, *args, **kwargs)
    for name, module in list(model.named_children()):
        if isinstance(module, ModulesToSaveWrapper):
            setattr(model, name, module.modules_to_save[prefixed.active_adapter])
    prefixed.active_peft_config.modules_to_save = None
    return prefixed
