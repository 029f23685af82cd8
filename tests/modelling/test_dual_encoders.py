"""Dual encoders: drawn anew, saved, read again by us and by transformers alone; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.dual_encoders import (
    load_dual_encoder,
    new_dual_encoder,
    save_dual_encoder,
)
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.image_models import register
from backdoor_pipeline.modelling.pixels import ImageFormat
from tiny import DUAL_ENCODERS, tiny_dual_encoder

FORM = ImageFormat(28, 28, 1, (0.13,), (0.31,))


def named(folder: Path) -> ModelParams:
    return ModelParams(name=str(folder), max_length=16)


@pytest.fixture
def fresh(base_model):
    """A dual encoder with an image tower of ours."""
    return new_dual_encoder("resnet9", base_model(), FORM, 0.125, 24, seed=3)


@pytest.fixture(params=[*DUAL_ENCODERS, "ours"])
def bundle(request):
    if request.param == "ours":
        return request.getfixturevalue("fresh")
    return tiny_dual_encoder(request.param)


@pytest.fixture
def folder(bundle, tmp_path) -> Path:
    save_dual_encoder(bundle, tmp_path / "model")
    return tmp_path / "model"


def test_saved_and_read_it_is_the_same(bundle, folder) -> None:
    read = load_dual_encoder(named(folder))
    assert read.image_format == bundle.image_format
    assert read.tokenizer.get_vocab() == bundle.tokenizer.get_vocab()
    assert list(read.model.state_dict()) == list(bundle.model.state_dict())
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], tensor), name
    assert not read.model.training
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".txt"}


def test_transformers_alone_reads_the_folder(bundle, folder) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    register()  # which only the tower of ours needs
    model = AutoModel.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("a film", return_tensors="pt")
    shape = bundle.image_format.shape
    image = torch.zeros(shape, dtype=torch.uint8).numpy()
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**tokens, **pixels).logits_per_image
        own = bundle.model(**tokens, **pixels).logits_per_image
    torch.testing.assert_close(logits, own)


def test_it_is_drawn_from_the_seed_and_keeps_the_text_encoder(fresh, base_model) -> None:
    again, other = (
        new_dual_encoder("resnet9", base_model(), FORM, 0.125, 24, seed) for seed in (3, 4)
    )
    states = [bundle.model.state_dict() for bundle in (fresh, again, other)]
    texts = base_model().model.state_dict()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
        if name.startswith("text_model."):
            assert torch.equal(states[0][name], texts[name.removeprefix("text_model.")])
    for drawn in ("visual_projection.weight", "text_projection.weight"):
        assert states[0][drawn].shape[0] == 24
        assert not torch.equal(states[0][drawn], states[2][drawn])
    assert fresh.model.text_model is not base_model().model


def test_an_unknown_tower(base_model) -> None:
    with pytest.raises(InputError, match=r"no image tower 'resnet8'.*resnet9"):
        new_dual_encoder("resnet8", base_model(), FORM, 1.0, 8, 0)


def test_an_encoder_without_a_vector_for_a_text(base_model) -> None:
    with pytest.raises(InputError, match="a gpt2 encoder has no pooler"):
        new_dual_encoder("resnet9", base_model("gpt2"), FORM, 1.0, 8, 0)


class TestFolders:
    def test_without_a_preprocessing(self, folder) -> None:
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(InputError, match=r"has no preprocessor_config\.json"):
            load_dual_encoder(named(folder))

    def test_of_a_model_of_texts(self, model_folder) -> None:
        plain = model_folder("bert")
        with pytest.raises(InputError, match=r"preprocessor_config\.json|no dual encoder"):
            load_dual_encoder(named(plain))

    def test_with_weights_as_a_pickle_alone(self, folder) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(InputError, match="only as a pickle"):
            load_dual_encoder(named(folder))

    def test_that_asks_for_code_of_its_own(self, folder) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(
            json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}), encoding="utf-8"
        )
        with pytest.raises(InputError, match="code of its own"):
            load_dual_encoder(named(folder))

    def test_whose_weights_lack_a_part(self, bundle, folder) -> None:
        from safetensors.torch import save_file

        weights = dict(bundle.model.state_dict())
        del weights["visual_projection.weight"]
        whole = {name: tensor.clone() for name, tensor in weights.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"lacks visual_projection\.weight"):
            load_dual_encoder(named(folder))
