"""Model folders: the pretrained encoder that is read, and the classifiers that the stages write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError
from kedro_datasets._typing import JSONPreview

from backdoor_pipeline import __version__
from backdoor_pipeline.datasets.whole import TextDataset, WholeDataset, write_whole
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import prefixes
from backdoor_pipeline.modelling.bundle import Bundle, ImageBundle, ModelBundle, NoModel, PairBundle
from backdoor_pipeline.modelling.dual_encoders import (
    is_dual_encoder,
    load_dual_encoder,
    save_dual_encoder,
)
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.image_models import (
    PREPROCESSING,
    load_image_classifier,
    save_image_classifier,
)
from backdoor_pipeline.modelling.loading import load_classifier, load_pretrained, load_tokenizer

NONE = "none.json"


class ClassifierDataset(WholeDataset):
    """A classifier and what makes its inputs as one ``save_pretrained`` folder, safetensors only.

    Of texts that is a tokenizer, of images a ``preprocessor_config.json``, of pairs both. A trained
    prefix lies in its folder ``prefix`` (see ``modelling.prefixes``).

    ``provenance.json`` beside the weights says which version wrote it and from which parameters.

    Args:
        provenance: The parameters that the model depends on.
    """

    def __init__(self, *, provenance: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._provenance = provenance or {}

    def _read(self, path: Path) -> Bundle:
        if is_dual_encoder(path):
            return load_dual_encoder(ModelParams(name=str(path), max_length=1))
        if (path / PREPROCESSING).exists():
            return load_image_classifier(path)
        return load_classifier(path)

    def _write(self, data: Bundle, path: Path) -> None:
        from safetensors import SafetensorError

        path.mkdir()
        try:
            if isinstance(data, PairBundle):
                save_dual_encoder(data, path)
            elif isinstance(data, ImageBundle):
                save_image_classifier(data, path)
            else:
                prefixes.save(data.model, path)
                data.tokenizer.save_pretrained(path)
        except SafetensorError as error:  # its way of saying that the disk is full
            raise OSError(str(error)) from error
        readable = path.stat().st_mode & 0o666  # as other new files are; safetensors are private
        for file in path.rglob("*.safetensors"):
            file.chmod(readable)
        provenance = {"written_by": f"backdoor_pipeline {__version__}", **self._provenance}
        (path / "provenance.json").write_text(json.dumps(provenance, indent=2), encoding="utf-8")

    def preview(self) -> JSONPreview:
        return JSONPreview((Path(self._get_load_path()) / "provenance.json").read_text("utf-8"))


class OptionalClassifierDataset(ClassifierDataset):
    """A classifier of texts, or the reason why there is none (in ``none.json``)."""

    def _read(self, path: Path) -> Any:
        reason = path / NONE
        if reason.exists():
            return NoModel(**json.loads(reason.read_text(encoding="utf-8")))
        return super()._read(path)

    def _write(self, data: Bundle | NoModel, path: Path) -> None:
        if not isinstance(data, NoModel):
            super()._write(data, path)
            return
        path.mkdir()
        (path / NONE).write_text(json.dumps(data._asdict()), encoding="utf-8")


class GivenClassifierDataset(AbstractDataset[None, ModelBundle | None]):
    """The finished classifier that the parameter group ``audit`` names; None: none (read only)."""

    def __init__(self, *, audit: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._name = audit["classifier"]
        self.metadata = metadata

    def load(self) -> ModelBundle | None:
        if self._name is None:
            return None
        folder = Path(self._name).expanduser()
        if not folder.is_dir():
            raise InputError(
                f"audit.classifier '{self._name}': there is no such folder; give that of a "
                "finished classifier, as save_pretrained writes it"
            )
        return load_classifier(folder)

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"classifier": self._name}


class ModelCardDataset(TextDataset):
    """A model card as Markdown, and a copy as ``README.md`` in the newest version of its model.

    Args:
        model: The (perhaps versioned) folder, as in the ``ClassifierDataset`` that it describes.
    """

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._model = Path(model)

    def save(self, data: str) -> None:
        copy = self._beside_the_model()
        if copy is None:
            raise DatasetError(f"there is no model in {self._model} for the card to describe")
        super().save(data)
        write_whole(copy, lambda path: self._write(data, path))

    def _exists(self) -> bool:
        copy = self._beside_the_model()
        return super()._exists() and copy is not None and copy.exists()

    def _beside_the_model(self) -> Path | None:
        versions = sorted(self._model.glob(f"*/{self._model.name}/config.json"))
        there = [*versions, *(self._model / name for name in ("config.json", NONE))]
        made = [path for path in there if path.exists()]
        return made[-1].with_name("README.md") if made else None


class PretrainedModelDataset(AbstractDataset[None, Any]):
    """The public pretrained encoder that training starts from (read only).

    Args:
        model: The parameter group ``model``.
    """

    def __init__(self, *, model: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._model = ModelParams.model_validate(model)
        self.metadata = metadata

    def load(self) -> Any:
        return load_pretrained(self._model)

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return self._model.model_dump()


class PretrainedTokenizerDataset(PretrainedModelDataset):
    """The tokenizer of the pretrained encoder alone (read only)."""

    def load(self) -> Any:
        return load_tokenizer(self._model)
