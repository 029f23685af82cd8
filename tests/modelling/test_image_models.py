"""Classifiers of images: by name, folder and hub id; they learn, and nothing is lost on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.image_models import (
    NAMES,
    PREPROCESSING,
    load_image_classifier,
    new_image_classifier,
    register,
    save_image_classifier,
)
from backdoor_pipeline.modelling.pixels import Augmentation, ImageFormat, Pixels
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import (
    Labelled,
    OptimisationParams,
    accuracy,
    fit,
)

FORMAT = ImageFormat(16, 16, 3, mean=(0.5, 0.45, 0.4), std=(0.25, 0.2, 0.3))
GREY = ImageFormat(28, 28, 1, mean=(0.13,), std=(0.31,))
EXAMPLE_SETTINGS = {
    "image_mean": [0.5, 0.45, 0.4],
    "image_std": [0.25, 0.2, 0.3],
    "size": {"height": 16, "width": 16},
}


def squares(n: int = 240, seed: int = 0) -> Labelled:
    """Noise with a square somewhere, whose colour (red, green or blue) is the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    values = rng.integers(0, 160, (n, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(values, labels, strict=True):
        top, left = rng.integers(0, 11, 2)
        image[top : top + 6, left : left + 6] = np.eye(3, dtype=np.uint8)[label] * 255
    return Labelled(Pixels(values, FORMAT), labels)


def resnet(width: float = 0.125, seed: int = 0, n_classes: int = 3) -> ImageBundle:
    return new_image_classifier("resnet9", n_classes, FORMAT, width, seed)


def tiny_vit(**changes: Any) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    settings = {
        **{"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "intermediate_size": 64, "num_labels": 5},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViTForImageClassification(ViTConfig(**{**settings, **changes})).eval()


@pytest.fixture
def vit_folder(tmp_path) -> Path:
    """The folder of a pretrained vision transformer of five classes."""
    save_image_classifier(ImageBundle(tiny_vit(), FORMAT), tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture(scope="module")
def params() -> OptimisationParams:
    return OptimisationParams(
        epochs=3,
        learning_rate=5e-3,
        batch_size=16,
        weight_decay=0.0,
        warmup_share=0.1,
        max_gradient_norm=10.0,
    )


@pytest.fixture(scope="module")
def fitted(params, compute) -> Callable[[int], ImageBundle]:
    """A small ResNet-9 fitted to the squares, from a seed."""

    @cache
    def make(seed: int) -> ImageBundle:
        bundle, train = resnet(), squares()
        augmented = train._replace(
            inputs=train.inputs.augmented(Augmentation(padding=2, flip=True))
        )
        fit(bundle, augmented, None, params, compute, seed)
        return bundle

    return make


def state(bundle: ImageBundle) -> dict[str, torch.Tensor]:
    return bundle.model.state_dict()


def differing(first: ImageBundle, second: ImageBundle) -> set[str]:
    assert state(first).keys() == state(second).keys()
    return {name for name, x in state(first).items() if not torch.equal(x, state(second)[name])}


class TestLearning:
    def test_resnet_learns_the_colours_of_squares(self, fitted, compute) -> None:
        unseen = squares(90, seed=1)
        assert accuracy(fitted(0), unseen, compute) > 0.9
        assert accuracy(resnet(), unseen, compute) < 0.6
        assert not fitted(0).model.training

    def test_the_same_seed_gives_the_same_weights(self, fitted, params, compute) -> None:
        bundle, train = resnet(), squares()
        augmented = train._replace(
            inputs=train.inputs.augmented(Augmentation(padding=2, flip=True))
        )
        torch.manual_seed(12345)  # nobody else's generator matters
        before = torch.get_rng_state()
        fit(bundle, augmented, None, params, compute, 0)
        assert not differing(bundle, fitted(0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_seed_gives_others(self, fitted) -> None:
        assert differing(fitted(1), fitted(0))

    def test_predictions_are_of_each_image_alone(self, fitted, compute) -> None:
        inputs = squares(50, seed=1).inputs
        probabilities = predict(fitted(0), inputs, compute)
        assert probabilities.shape == (50, 3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        backwards = predict(fitted(0), inputs.take(np.arange(50)[::-1]), compute, batch_rows=7)
        np.testing.assert_allclose(backwards[::-1], probabilities, atol=1e-5)

    def test_predictions_of_augmented_images_are_of_other_ones(self, fitted, compute) -> None:
        inputs = squares(50, seed=1).inputs
        changed = predict(fitted(0), inputs.augmented(Augmentation(padding=4, flip=True)), compute)
        assert not np.allclose(changed, predict(fitted(0), inputs, compute), atol=1e-3)

    def test_a_transformer_learns_them_as_well(self, vit_folder, params, compute) -> None:
        bundle = new_image_classifier(str(vit_folder), 3, GREY, 1.0, seed=0)
        train = squares()
        longer = params.model_copy(update={"epochs": 8, "learning_rate": 2e-3})
        history = fit(bundle, train, squares(60, seed=1), longer, compute, seed=0)
        assert len(history["dev_accuracy"]["value"]) == 8
        assert accuracy(bundle, squares(90, seed=2), compute) > 0.8


class TestNew:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_is_drawn_from_its_seed(self, name) -> None:
        width = {"resnet9": 0.125, "wrn-28-10": 0.05}[name]
        before = torch.get_rng_state()
        first, again, other = (
            new_image_classifier(name, 4, GREY, width, seed) for seed in (0, 0, 1)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert not differing(first, again)
        assert "classifier.weight" in differing(first, other)
        assert first.image_format == GREY
        assert first.model.config.num_labels == 4
        assert first.model(pixel_values=torch.zeros(2, 1, 28, 28)).logits.shape == (2, 4)
        assert first.model.dtype == torch.float32
        assert not first.model.training

    def test_width_1_is_as_published(self) -> None:
        model = new_image_classifier("resnet9", 10, FORMAT, 1.0, 0).model
        assert sum(p.numel() for p in model.parameters()) == 2_276_224

    def test_images_that_are_too_small(self) -> None:
        small = ImageFormat(8, 8, 1, mean=(0.5,), std=(0.5,))
        with pytest.raises(InputError, match=r"'resnet9' cannot read images of 8 x 8 pixels"):
            new_image_classifier("resnet9", 10, small, 0.125, 0)

    def test_a_pretrained_one_keeps_all_but_its_head(self, vit_folder) -> None:
        original = ImageBundle(tiny_vit(), FORMAT)
        first, again, other = (
            new_image_classifier(str(vit_folder), 3, GREY, 1.0, seed) for seed in (0, 0, 1)
        )
        head = {"classifier.weight", "classifier.bias"}
        assert differing(first, original) == head
        assert not differing(first, again)
        assert differing(first, other) == {"classifier.weight"}
        assert first.image_format == FORMAT  # its own, not that of the data
        assert first.model.config.num_labels == 3
        assert len(first.model.config.id2label) == 3

    def test_one_with_two_heads_gets_two_new_ones(self, tmp_path) -> None:
        from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = DeiTConfig(
            image_size=16, patch_size=4, intermediate_size=64, num_labels=5, **small
        )
        model = DeiTForImageClassificationWithTeacher(config)
        save_image_classifier(ImageBundle(model, FORMAT), tmp_path / "deit")
        replaced = new_image_classifier(str(tmp_path / "deit"), 3, FORMAT, 1.0, 0)
        heads = {name for name, _ in model.named_parameters() if "_classifier." in name}
        assert len(heads) == 4
        assert differing(replaced, ImageBundle(model, FORMAT)) == heads

    def test_a_head_of_as_many_classes_is_kept(self, vit_folder) -> None:
        bundle = new_image_classifier(str(vit_folder), 5, FORMAT, 1.0, 0)
        assert not differing(bundle, ImageBundle(tiny_vit(), FORMAT))

    def test_an_encoder_without_a_head_gets_one(self, vit_folder) -> None:
        tiny_vit().vit.save_pretrained(vit_folder)
        bundle = new_image_classifier(str(vit_folder), 3, FORMAT, 1.0, 0)
        assert torch.equal(
            state(bundle)["vit.embeddings.cls_token"], tiny_vit().vit.embeddings.cls_token
        )

    @pytest.mark.parametrize("name", ["/no/where", "~/nowhere", "./nowhere", "a/b/c"])
    def test_no_such_folder(self, name) -> None:
        with pytest.raises(InputError, match=r"no such folder.*resnet9"):
            new_image_classifier(name, 3, FORMAT, 1.0, 0)

    def test_a_file_is_no_folder(self, vit_folder) -> None:
        with pytest.raises(InputError, match="is a file; give the model's folder"):
            new_image_classifier(str(vit_folder / "config.json"), 3, FORMAT, 1.0, 0)

    def test_a_name_that_nobody_knows(self, monkeypatch, tmp_path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=r"'resnet-9'.*did you mean 'resnet9'.*network"):
            new_image_classifier("resnet-9", 3, FORMAT, 1.0, 0)


class TestFolders:
    @pytest.mark.parametrize(("name", "image_format"), [("resnet9", GREY), ("wrn-28-10", FORMAT)])
    def test_saved_and_loaded_it_is_the_same(self, name, image_format, tmp_path) -> None:
        bundle = new_image_classifier(name, 4, image_format, 0.1, 0)
        bundle.model.train()
        bundle.model(torch.rand(4, *image_format.shape[2:], *image_format.shape[:2]))
        save_image_classifier(bundle, tmp_path / "model")
        loaded = load_image_classifier(tmp_path / "model")
        assert not differing(loaded, bundle)
        assert loaded.image_format == image_format
        assert not loaded.model.training
        written = {path.name for path in (tmp_path / "model").iterdir()}
        assert written == {"config.json", "model.safetensors", PREPROCESSING}

    @pytest.mark.parametrize("name", NAMES)
    def test_transformers_reads_it_too(self, name, tmp_path) -> None:
        from transformers import AutoModelForImageClassification

        bundle = new_image_classifier(name, 3, FORMAT, 0.05, 0)
        save_image_classifier(bundle, tmp_path)
        register()
        register()  # twice does no harm
        read = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert type(read) is type(bundle.model)
        assert not differing(ImageBundle(read, FORMAT), bundle)

    @pytest.mark.parametrize("image_format", [FORMAT, GREY], ids=["colour", "grey"])
    def test_its_image_processor_gives_the_same_pixels(self, image_format, tmp_path) -> None:
        from transformers import AutoImageProcessor

        rng = np.random.default_rng(0)
        values = rng.integers(0, 256, (5, *image_format.shape), dtype=np.uint8)
        bundle = new_image_classifier("resnet9", 3, image_format, 0.05, 0)
        save_image_classifier(bundle, tmp_path)
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        pictures = [Image.fromarray(image.squeeze()) for image in values]
        theirs = processor(pictures, return_tensors="pt")["pixel_values"]
        ours = Pixels(values, image_format).collate(np.arange(5), torch.device("cpu"))
        torch.testing.assert_close(theirs, ours["pixel_values"], atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, FORMAT),
            ({"size": 16}, FORMAT),
            ({"size": {"shortest_edge": 16}}, FORMAT),
            ({"size": 20, "do_center_crop": True, "crop_size": 16}, FORMAT),
            ({"do_normalize": False}, ImageFormat(16, 16, 3, (0.0,) * 3, (1.0,) * 3)),
            ({"image_mean": 0.5}, ImageFormat(16, 16, 3, (0.5,) * 3, FORMAT.std)),
            (
                {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
                ImageFormat(16, 16, 3, (0.5,) * 3, (0.5,) * 3),
            ),
            (
                {"do_rescale": False, "image_mean": 102.0, "image_std": 51.0},
                ImageFormat(16, 16, 3, (0.4,) * 3, (0.2,) * 3),
            ),
        ],
        ids=str,
    )
    def test_ways_to_say_the_preprocessing(self, settings, expected, vit_folder) -> None:
        content = json.dumps(EXAMPLE_SETTINGS | settings)
        (vit_folder / PREPROCESSING).write_text(content, encoding="utf-8")
        read = load_image_classifier(vit_folder).image_format
        assert read.shape == expected.shape
        np.testing.assert_allclose(read.mean, expected.mean)
        np.testing.assert_allclose(read.std, expected.std)


class TestBadFolders:
    def spoil(self, folder: Path, name: str, **changes: Any) -> None:
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(settings | changes), encoding="utf-8")

    def refused(self, folder: Path, *told: str) -> None:
        for load in (
            lambda: load_image_classifier(folder),
            lambda: new_image_classifier(str(folder), 3, FORMAT, 1.0, 0),
        ):
            with pytest.raises(InputError) as error:
                load()
            for part in (folder.name, *told):
                assert part in str(error.value)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", PREPROCESSING])
    def test_a_part_is_missing(self, name, vit_folder) -> None:
        (vit_folder / name).unlink()
        self.refused(vit_folder, f"has no {'weights' if 'safe' in name else name}")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", PREPROCESSING])
    @pytest.mark.parametrize("content", ["", "[1, 2]", "{", "nonsense"])
    def test_a_part_is_broken(self, name, content, vit_folder) -> None:
        (vit_folder / name).write_text(content, encoding="utf-8")
        self.refused(vit_folder, "cannot be read" if content != "[1, 2]" else "")

    def test_preprocessing_that_is_no_object(self, vit_folder) -> None:
        (vit_folder / PREPROCESSING).write_text("[1, 2]", encoding="utf-8")
        self.refused(vit_folder, "holds no settings")

    def test_weights_only_as_a_pickle(self, vit_folder) -> None:
        (vit_folder / "model.safetensors").rename(vit_folder / "pytorch_model.bin")
        self.refused(vit_folder, "pickle", "save_pretrained")

    @pytest.mark.parametrize("name", ["config.json", PREPROCESSING])
    def test_code_of_its_own_is_never_run(self, name, vit_folder) -> None:
        (vit_folder / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
        names = ("AutoConfig", "AutoModelForImageClassification", "AutoImageProcessor")
        self.spoil(vit_folder, name, auto_map=dict.fromkeys(names, "evil.Evil"))
        self.refused(vit_folder, "never run")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"size": None}, "size"),
            ({"size": {"height": 16}}, "size"),
            ({"size": -1}, "size"),
            ({"size": True}, "size"),
            ({"size": 10**6}, "at most"),
            ({"do_center_crop": True}, "crop_size"),
            ({"image_mean": None}, "image_mean"),
            ({"image_mean": [0.5]}, "image_mean"),
            ({"image_std": [0.5, 0.5, "x"]}, "image_std"),
            ({"image_std": [0.5, 0.5, 0]}, "above 0"),
            ({"rescale_factor": 0}, "rescale_factor"),
            ({"rescale_factor": None}, "rescale_factor"),
            ({"do_flip_channel_order": True}, "do_flip_channel_order"),
            ({"size": {"height": 20, "width": 16}}, "cannot read images of 20 x 16"),
        ],
        ids=str,
    )
    def test_preprocessing_that_cannot_be(self, changes, told, vit_folder) -> None:
        self.spoil(vit_folder, PREPROCESSING, **changes)
        self.refused(vit_folder, told)

    def test_weights_of_another_model(self, vit_folder) -> None:
        tiny_vit(num_hidden_layers=1).save_pretrained(vit_folder / "other")
        (vit_folder / "other" / "model.safetensors").rename(vit_folder / "model.safetensors")
        self.refused(vit_folder, "another model")

    def test_weights_of_another_size(self, vit_folder) -> None:
        tiny_vit(intermediate_size=48).save_pretrained(vit_folder / "other")
        (vit_folder / "other" / "model.safetensors").rename(vit_folder / "model.safetensors")
        self.refused(vit_folder, "disagree on vit.")

    @pytest.mark.parametrize(
        ("there", "told"),
        [({}, "lacks parameters"), ({"vit.layernorm.weight": torch.ones(33)}, "disagree on")],
        ids=["missing", "of another size"],
    )
    def test_a_part_of_the_body_that_is_as_long_as_there_are_classes(
        self, there, told, vit_folder
    ) -> None:
        weights = tiny_vit().state_dict()
        n_classes = len(weights.pop("vit.layernorm.weight"))
        save_file(weights | there, vit_folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match=rf"{told} .*vit\.layernorm\.weight"):
            new_image_classifier(str(vit_folder), n_classes, FORMAT, 1.0, 0)

    def test_a_head_of_another_size(self, vit_folder) -> None:
        self.spoil(vit_folder, "config.json", id2label={"0": "a", "1": "b"})
        with pytest.raises(InputError, match=r"disagree on classifier\."):
            load_image_classifier(vit_folder)

    def test_a_model_of_texts(self, vit_folder, model_folder) -> None:
        config = (model_folder("bert") / "config.json").read_text(encoding="utf-8")
        (vit_folder / "config.json").write_text(config, encoding="utf-8")
        self.refused(vit_folder, "classifier of images")
