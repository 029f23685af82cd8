"""What is trained, apart from the frozen layers before it: it computes and learns the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from backdoor_pipeline.modelling import parts
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.image_models import NAMES, new_image_classifier
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.parts import trained_part
from backdoor_pipeline.modelling.pixels import Pixels, measured_format
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from backdoor_pipeline.pipelines.unlearn.retraining import freeze, last_layers

CPU = ComputeParams(device="cpu", precision="fp32")
TRAINING = OptimisationParams(
    epochs=2,
    learning_rate=0.01,
    batch_size=8,
    weight_decay=0.0,
    warmup_share=0.0,
    max_gradient_norm=None,
    optimiser="sgd",
    momentum=0.9,
)


def images(n_rows: int = 25) -> Labelled:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (n_rows, 16, 16, 3), dtype=np.uint8)
    return Labelled(Pixels(values, measured_format(values)), rng.integers(0, 4, n_rows))


def with_last_layers(network: str, k: int | None, data: Labelled):
    bundle = new_image_classifier(network, 4, data.inputs.format, 0.1, seed=0)
    with torch.no_grad():  # running statistics of its own
        bundle.model.train()(
            **data.inputs.collate(np.arange(len(data.labels)), torch.device("cpu"))
        )
    freeze(bundle.model.eval(), last_layers(bundle.model, k))
    return bundle


@pytest.mark.parametrize("k", [1, 3, 4, 6, None])
@pytest.mark.parametrize("network", NAMES)
def test_it_learns_what_the_whole_does(network, k) -> None:
    data = images()
    whole = with_last_layers(network, k, data)
    before = copy.deepcopy(whole.model)
    other = whole._replace(model=copy.deepcopy(whole.model))
    part, (states,) = trained_part(other, [data], CPU)
    n_left = len(part.model.features)
    assert n_left < len(whole.model.features) if k else n_left == len(whole.model.features)
    assert np.array_equal(states.labels, data.labels)
    expected = predict(whole, data.inputs, CPU)
    np.testing.assert_allclose(predict(part, states.inputs, CPU), expected, atol=1e-6)
    for bundle, rows in ((whole, data), (part, states)):
        evaluating = bundle.model.eval
        fit(bundle, rows, None, TRAINING, CPU, 5, on_step=lambda _, hold=evaluating: hold())
    theirs = dict(other.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(theirs[name], parameter, atol=1e-5, rtol=1e-4)
        changed = not torch.equal(parameter, before.get_parameter(name))
        assert changed == parameter.requires_grad, name
    for name, buffer in other.model.named_buffers():
        assert torch.equal(buffer, before.get_buffer(name)), name


def test_rows_are_taken_joined_and_batched_like_images() -> None:
    data = images()
    bundle = with_last_layers("resnet9", 4, data)
    few = data.take(np.array([7, 2, 9]))
    _, (states, own) = trained_part(bundle, [data, few], CPU)
    assert len(states.inputs) == len(data.inputs)
    again = states.take(np.array([7, 2, 9])).joined(own)
    assert np.array_equal(again.labels, [*few.labels, *few.labels])
    torch.testing.assert_close(again.inputs.values[:3], again.inputs.values[3:])
    for make_rng in (lambda: None, lambda: np.random.default_rng(0)):
        batches = [rows.inputs.batches(8, make_rng()) for rows in (data, states)]
        assert all(map(np.array_equal, *batches))


def test_in_bfloat16_states_are_what_the_layers_gave() -> None:
    data = images()
    bundle = with_last_layers("resnet9", 4, data)
    compute = CPU.model_copy(update={"precision": "bf16"})
    part, (states,) = trained_part(bundle, [data], compute)
    assert states.inputs.values.dtype == torch.bfloat16
    whole, after = predict(bundle, data.inputs, compute), predict(part, states.inputs, compute)
    np.testing.assert_allclose(after, whole, atol=1e-3)


def test_states_that_would_fill_the_memory_are_not_kept(monkeypatch) -> None:
    data = images()
    bundle = with_last_layers("resnet9", 4, data)
    _, (states,) = trained_part(bundle, [data], CPU)
    there = 10 * states.inputs.values.nbytes
    monkeypatch.setattr(parts, "host_memory", lambda: there)
    assert trained_part(bundle, [data], CPU)[0] != bundle
    monkeypatch.setattr(parts, "host_memory", lambda: there - 1)
    assert trained_part(bundle, [data], CPU) == (bundle, [data])


def test_models_of_other_kinds_are_left_whole(base_model, compute) -> None:
    bundle = new_classifier(base_model(), n_classes=2, seed=0)
    data = Labelled(tokenise(["a film", "the film"], bundle.tokenizer, 8), np.array([0, 1]))
    assert trained_part(bundle, [data], compute) == (bundle, [data])
