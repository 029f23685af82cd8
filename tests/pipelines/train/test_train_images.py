"""The nodes of the stage on images: what they train on, from which weights, changed how."""

from __future__ import annotations

import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.pixels import Augmentation, decode, encode, measured_format
from backdoor_pipeline.pipelines.train.nodes import train_image_reference, train_image_victim
from backdoor_pipeline.pipelines.train.pipeline import create_pipeline
from tiny import make_images


@pytest.fixture(scope="module")
def images():
    return make_images(n_train=40, n_dev=8, n_test=8)


@pytest.fixture(scope="module")
def parameters(make_parameters):
    """Settings with changes."""
    return lambda **changes: make_parameters(
        **{"modality": "image", "model.width": 0.125} | changes
    )


@pytest.fixture
def fitted(monkeypatch):
    """What the training loop was called with."""
    calls = []

    def fit(bundle, train, dev, params, compute, seed, what):
        calls.append({"train": train, "dev": dev, "params": params, "seed": seed, "what": what})
        return {"loss": {"step": [], "value": []}}

    monkeypatch.setattr("backdoor_pipeline.pipelines.train.nodes.fit", fit)
    return calls


def test_the_victim_learns_the_poisoned_rows_and_is_chosen_on_clean_ones(
    images, parameters, compute, fitted
) -> None:
    p = parameters()
    dark = encode(decode(images["image"].head(1).tolist(), "one")[0] // 2)
    poisoned = images[images["split"] == "train"].head(20).assign(image=dark, label=0)
    bundle, _ = train_image_victim(poisoned, images, p.training, p.model, compute, 5)
    (call,) = fitted
    assert call["train"].labels.tolist() == [0] * 20
    dev = images[images["split"] == "dev"]
    assert call["dev"].labels.tolist() == dev["label"].tolist()
    assert (call["dev"].inputs.values == decode(dev["image"].tolist(), "dev")).all()
    assert (call["seed"], call["what"]) == (5, "victim")
    # normalised by the pixels of its training rows, not of all
    assert bundle.image_format == measured_format(decode([dark], "one"))
    expected = new_image_classifier("resnet9", 4, bundle.image_format, 0.125, 5)
    for one, other in zip(bundle.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reference_learns_the_unpoisoned_rows(images, parameters, compute, fitted) -> None:
    p = parameters()
    train_image_reference(images, p.training, p.model, compute, 5)
    (call,) = fitted
    train = images[images["split"] == "train"]
    assert call["train"].labels.tolist() == train["label"].tolist()
    assert call["what"] == "reference"
    assert call["params"].optimiser == "sgd"


def test_a_class_that_only_the_test_rows_have_gets_a_logit(
    images, parameters, compute, fitted
) -> None:
    p = parameters()
    odd = images.assign(label=images["label"].where(images["split"] != "test", 6))
    bundle, _ = train_image_reference(odd, p.training, p.model, compute, 5)
    assert bundle.model.config.num_labels == 7


@pytest.mark.parametrize("padding", [None, 2])
def test_training_rows_alone_are_augmented(images, parameters, compute, fitted, padding) -> None:
    changes = {"padding": padding, "flip": True} if padding else None
    p = parameters(**{"training.augmentation": changes})
    train_image_reference(images, p.training, p.model, compute, 5)
    (call,) = fitted
    asked = Augmentation(padding=padding, flip=True) if padding else None
    assert call["train"].inputs.augmentation == asked
    assert call["dev"].inputs.augmentation is None


def test_it_learns(images, parameters, compute) -> None:
    p = parameters(**{"training.epochs": 4, "training.batch_size": 8})
    bundle, history = train_image_reference(
        make_images(n_train=160), p.training, p.model, compute, 0
    )
    assert history["dev_accuracy"]["value"][-1] > 0.9
    assert not bundle.model.training


@pytest.mark.parametrize(
    ("name", "said"),
    [("/no/such/model", "there is no such folder"), ("minilm", "neither a folder nor a network")],
)
def test_a_model_that_is_none_of_images(images, parameters, compute, name, said) -> None:
    p = parameters(**{"model.name": name})
    with pytest.raises(InputError, match=said):
        train_image_reference(images, p.training, p.model, compute, 0)


def test_wiring_reads_no_encoder() -> None:
    pipeline = create_pipeline("image")
    read = {i for i in pipeline.inputs() if not i.startswith("params:")}
    assert read == {"examples", "poisoned_train"}
    assert pipeline.outputs() == create_pipeline().outputs()
    reference = pipeline.filter(node_names=["train_reference"])
    assert "poisoned_train" not in reference.inputs()
