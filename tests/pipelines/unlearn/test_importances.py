"""Importances by their definition, for networks of images and of texts."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.networks.resnet9 import (
    ResNet9Config,
    ResNet9ForImageClassification,
)
from backdoor_pipeline.modelling.pixels import Pixels, measured_format
from backdoor_pipeline.modelling.training import Labelled, labelled
from backdoor_pipeline.pipelines.unlearn import importances
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams
from tiny import ARCHITECTURES, MAX_LENGTH, Vectors

QUANTITIES = ("xlf", "lf", "ce")
ESTIMATORS = ("batch", "per_sample")
CPU = ComputeParams(device="cpu", precision="fp32")


def measure(*arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
    return importances.measure(*arguments, **named).importances


def params(**changes: Any) -> ImportanceParams:
    base = {"quantity": "xlf", "estimator": "per_sample", "batch_size": 4, "rows": None, "chunk": 3}
    return ImportanceParams(**(base | changes))


class TwoLayers(torch.nn.Module):
    """A small network, some of it unused; its logits are multiplied by ``scale``."""

    def __init__(self, scale: float = 1.0, peeks: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Linear(4, 6)
            self.second = torch.nn.Linear(6, 3)
            self.unused = torch.nn.Linear(2, 2)
        self.scale, self.peeks = scale, peeks

    def forward(self, values):
        hidden = self.first(values).tanh()
        if self.peeks:
            assert hidden.max().item() < 1
        return SimpleNamespace(logits=self.scale * self.second(hidden))


class Bundle(NamedTuple):
    model: torch.nn.Module


@pytest.fixture
def rows() -> Labelled:
    rng = np.random.default_rng(0)
    return Labelled(Vectors(rng.normal(size=(10, 4)).astype(np.float32)), rng.integers(0, 3, 10))


@pytest.fixture(scope="module")
def images() -> Labelled:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (7, 12, 12, 1), dtype=np.uint8)
    return Labelled(Pixels(values, measured_format(values)), rng.integers(0, 3, 7))


@pytest.fixture
def network(images) -> ImageBundle:
    """A ResNet-9 of few channels, whose running statistics are those of some images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet9ForImageClassification(
            ResNet9Config(num_channels=1, width=1 / 32, num_labels=3)
        ).train()
    model(**images.inputs.collate(np.arange(7), torch.device("cpu")))
    return ImageBundle(model, images.inputs.format)


def by_hand(model, data: Labelled, batches, quantity: str) -> dict[str, torch.Tensor]:
    """The definition, batch after batch."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches:
        logits = model(**data.inputs.collate(batch, torch.device("cpu"))).logits
        labels = torch.from_numpy(data.labels[batch])
        value = {
            "xlf": lambda f: f.square().sum(dim=1).sqrt().mean(),
            "lf": lambda f: f.square().sum(dim=1).mean(),
            "ce": lambda f, y=labels: -f.log_softmax(dim=1)[range(len(y)), y].mean(),
        }[quantity](logits)
        gradients = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
        for name, gradient in zip(sums, gradients, strict=True):
            sums[name] += gradient.square() if quantity == "ce" else gradient.abs()
    return {name: total / len(batches) for name, total in sums.items()}


def close(found, expected, rtol=1e-4, atol=1e-7) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("quantity", QUANTITIES)
class TestDefinition:
    def test_potion_13_5_batch_is_a_loop_over_mini_batches(self, rows, quantity) -> None:
        model = TwoLayers()
        batches = rows.inputs.batches(4, np.random.default_rng(7))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        found = measure(
            Bundle(model), rows, params(quantity=quantity, estimator="batch"), CPU, seed=7
        )
        close(found, by_hand(model, rows, batches, quantity))

    def test_potion_13_5_per_sample_is_a_loop_over_rows(self, rows, quantity) -> None:
        model = TwoLayers()
        found = measure(Bundle(model), rows, params(quantity=quantity), CPU, 7)
        close(found, by_hand(model, rows, [[row] for row in range(10)], quantity))

    @settings(max_examples=20)
    @given(seed=st.integers(0, 1000), n_rows=st.integers(1, 6))
    def test_rows_do_not_cancel_in_per_sample(self, quantity, seed, n_rows) -> None:
        rng = np.random.default_rng(seed)
        vectors = Vectors(rng.normal(size=(n_rows, 4)).astype(np.float32))
        data, bundle = Labelled(vectors, rng.integers(0, 3, n_rows)), Bundle(TwoLayers())
        each = measure(bundle, data, params(quantity=quantity), CPU, seed)
        whole = params(quantity=quantity, estimator="batch", batch_size=n_rows)
        mean = measure(bundle, data, whole, CPU, seed)
        assert all((each[name] >= mean[name] * (1 - 1e-4) - 1e-7).all() for name in each)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("chunk", [1, 4, 50])
    def test_the_chunk_matters_for_memory_alone(self, rows, quantity, estimator, chunk) -> None:
        one, other = (
            measure(
                Bundle(TwoLayers()),
                rows,
                params(quantity=quantity, estimator=estimator, batch_size=5, chunk=n),
                CPU,
                seed=1,
            )
            for n in (3, chunk)
        )
        close(one, other)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_potion_13_6_labels_matter_to_cross_entropy_alone(
        self, rows, quantity, estimator
    ) -> None:
        asked = params(quantity=quantity, estimator=estimator, rows=8)
        permuted = rows._replace(labels=(rows.labels + 1) % 3)
        one, other = (
            measure(Bundle(TwoLayers()), data, asked, CPU, 1) for data in (rows, permuted)
        )
        same = all(torch.equal(one[name], other[name]) for name in one)
        assert same == (quantity != "ce")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("quantity", "factor"), [("xlf", 2), ("lf", 4)])
def test_potion_13_5_doubled_logits(rows, estimator, quantity, factor) -> None:
    asked = params(quantity=quantity, estimator=estimator)
    once, twice = (measure(Bundle(TwoLayers(scale)), rows, asked, CPU, 1) for scale in (1.0, 2.0))
    close(twice, {name: factor * value for name, value in once.items()})


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_an_image_network_is_vectorised(images, network, quantity, caplog) -> None:
    caplog.set_level(logging.INFO)
    found = measure(network, images, params(quantity=quantity), CPU, 1)
    network.model.eval()
    close(found, by_hand(network.model, images, [[row] for row in range(7)], quantity), 1e-3, 1e-6)
    assert not caplog.messages


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_model_is_vectorised(base_model, corpus, architecture, caplog) -> None:
    bundle = new_classifier(base_model(architecture), 3, seed=0)
    data = labelled(corpus.head(8), bundle, MAX_LENGTH)
    assert len(set(data.inputs.lengths)) > 2  # so that there is padding
    caplog.set_level(logging.INFO)
    found = measure(bundle, data, params(chunk=5), CPU, 1)
    assert not caplog.messages
    bundle.model.eval()
    close(found, by_hand(bundle.model, data, [[row] for row in range(8)], "xlf"), 1e-3, 1e-6)


def test_what_cannot_be_vectorised_is_computed_row_by_row(rows, caplog) -> None:
    caplog.set_level(logging.INFO)
    found = measure(Bundle(TwoLayers(peeks=True)), rows, params(), CPU, 1)
    close(found, measure(Bundle(TwoLayers()), rows, params(), CPU, 1))
    assert [message.partition(" (")[0] for message in caplog.messages] == [
        "TwoLayers: one row at a time"
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(images, network, estimator, training) -> None:
    model = network.model.train(training)
    model.classifier.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure(network, images, params(estimator=estimator), CPU, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training == training
    assert not model.classifier.weight.requires_grad
    assert (found["classifier.weight"] > 0).any()
    for name, parameter in model.named_parameters():
        assert found[name].shape == parameter.shape
        assert found[name].dtype == torch.float32
        assert not found[name].requires_grad


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_some_rows_stand_for_all(rows, estimator) -> None:
    def found(n_rows: int | None, seed: int) -> torch.Tensor:
        asked = params(estimator=estimator, rows=n_rows, batch_size=50)
        return measure(Bundle(TwoLayers()), rows, asked, CPU, seed)["first.weight"]

    assert torch.equal(found(4, seed=1), found(4, seed=1))
    assert not torch.equal(found(4, seed=1), found(4, seed=2))
    torch.testing.assert_close(found(99, seed=1), found(None, seed=2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_float32_unless_both_settings_say_otherwise(rows, estimator) -> None:
    low = ComputeParams(device="cpu", precision="bf16")
    full, same, precise, rough = (
        measure(Bundle(TwoLayers()), rows, params(estimator=estimator, bf16=bf16), compute, 1)
        for compute, bf16 in ((CPU, False), (low, False), (CPU, True), (low, True))
    )
    assert torch.equal(full["first.weight"], same["first.weight"])
    assert torch.equal(full["first.weight"], precise["first.weight"])
    assert not torch.equal(full["first.weight"], rough["first.weight"])
    assert rough["first.weight"].dtype == torch.float32
    torch.testing.assert_close(full["first.weight"], rough["first.weight"], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("quantity", ["xlf", "ce"])
def test_in_bfloat16_a_network_has_nearly_the_same_importances(network, images, quantity) -> None:
    low = ComputeParams(device="cpu", precision="bf16")
    full, rough = (
        measure(network, images, params(quantity=quantity, bf16=bf16), low, 1)
        for bf16 in (False, True)
    )
    for name, importances_ in full.items():
        assert rough[name].dtype == torch.float32
        off = (rough[name] - importances_).norm() / importances_.norm()
        assert off < 0.05, name
    assert all(p.dtype == torch.float32 for p in network.model.parameters())


@pytest.mark.parametrize(("n_fitting", "n_rows"), [(0.5, 1), (2.5, 2), (99, 7)])
def test_gradients_of_single_rows_fit_into_memory(rows, monkeypatch, n_fitting, n_rows) -> None:
    model, asked = TwoLayers(), []
    n_bytes = 4 * n_fitting * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(importances, "memory_of", lambda device: {"cpu": 4 * n_bytes}[device.type])
    monkeypatch.setattr(
        Vectors, "batches", lambda data, size: asked.append(size) or [np.arange(len(data))]
    )
    measure(Bundle(model), rows, params(chunk=7), CPU, 1)
    assert asked == [n_rows]


@pytest.mark.parametrize(("chunk", "remedy"), [(7, "importances.chunk to 3, or "), (1, "")])
def test_gradients_that_do_not_fit_after_all_are_an_error(rows, monkeypatch, chunk, remedy) -> None:
    def vmap(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.func, "vmap", vmap)
    message = f"{chunk} rows at once do not fit .* 'cpu'; set {remedy}compute.device"
    with pytest.raises(InputError, match=message):
        measure(Bundle(TwoLayers()), rows, params(chunk=chunk), CPU, 1)


@pytest.mark.parametrize("quantity", ["xlf", "lf"])
def test_logits_of_zero_have_gradients_of_zero(rows, quantity) -> None:
    found = measure(Bundle(TwoLayers(scale=0.0)), rows, params(quantity=quantity), CPU, 1)
    assert all((value == 0).all() for value in found.values())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_rows_are_an_error(rows, estimator) -> None:
    nothing = rows.take(np.arange(0))
    with pytest.raises(InputError, match="rows to keep: there is no row"):
        measure(Bundle(TwoLayers()), nothing, params(estimator=estimator), CPU, 1, "rows to keep")


@pytest.mark.parametrize("estimator", ["batch", "per_sample"])
def test_gradients_have_their_sign(rows, estimator) -> None:
    bundle = Bundle(TwoLayers())
    measured = importances.measure(bundle, rows, params(estimator=estimator, batch_size=50), CPU, 1)
    logits = bundle.model(
        **rows.inputs.collate(np.arange(len(rows.labels)), torch.device("cpu"))
    ).logits
    torch.linalg.vector_norm(logits, dim=1).mean().backward()
    thetas = dict(bundle.model.named_parameters())
    expected = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in thetas.items()}
    close(measured.gradients, expected)


@pytest.mark.parametrize("quantity", ["xlf", "ce"])
def test_the_largest_and_the_smallest_are_those_of_single_rows(rows, quantity) -> None:
    bundle, asked = Bundle(TwoLayers()), params(quantity=quantity, chunk=3)
    measured = importances.measure(bundle, rows, asked, CPU, 1)
    each = [
        importances.measure(bundle, rows.take(np.array([row])), asked, CPU, 1).importances
        for row in range(len(rows.labels))
    ]
    for name in measured.importances:
        of_rows = torch.stack([one[name] for one in each])
        close({name: measured.largest[name]}, {name: of_rows.amax(dim=0)})
        close({name: measured.smallest[name]}, {name: of_rows.amin(dim=0)})
