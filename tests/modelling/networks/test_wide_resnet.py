"""The wide residual network: the published sizes and blocks, and what trainings ask of it."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import BatchNorm2d, Conv2d, Identity
from torch.nn.functional import avg_pool2d

from backdoor_pipeline.modelling.networks.wide_resnet import (
    Block,
    WideResNetConfig,
    WideResNetForImageClassification,
)


def network(width: float = 0.05, **settings) -> WideResNetForImageClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = WideResNetConfig(width=width, **{"num_labels": 10, **settings})
        return WideResNetForImageClassification(config)


def pixels(n: int = 3, channels: int = 3, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(n, channels, side, side, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def test_potion_13_9_number_of_parameters() -> None:
    with torch.device("meta"):  # shapes without memory
        model = network(width=1, num_labels=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == 36_547_940
    # 28 layers, as the name has it: the first, two for each of 4 x 3 blocks, shortcuts, the last
    convolutions = [layer for layer in model.modules() if isinstance(layer, Conv2d)]
    assert len(convolutions) == 1 + 2 * 4 * 3 + 3
    assert all(layer.bias is not None for layer in convolutions)


def test_shapes_from_block_to_block() -> None:
    model, shapes = network(width=0.1).eval(), []
    for layer in model.features:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    model(pixels(n=1))
    stages = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert shapes == [(16, 32, 32), *(stage for stage in stages for _ in range(4))]


@pytest.mark.parametrize(
    ("inside", "outside", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 6, 2)]
)
def test_a_block_equals_its_formula(inside, outside, stride) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Block(inside, outside, stride).eval()
    x = pixels(2, inside, 8)
    first, _, convolution, second, _, strided = block.convolutions
    states = strided(second(convolution(first(x).relu())).relu())
    changes = inside != outside or stride > 1
    shortcut = block.shortcut[1](block.shortcut[0](x)) if changes else x
    torch.testing.assert_close(block(x), states + shortcut)
    assert isinstance(block.shortcut, Identity) != changes
    assert (convolution.stride, strided.stride) == ((1, 1), (stride, stride))
    if changes:
        assert block.shortcut[0].kernel_size == (1, 1)
        assert isinstance(block.shortcut[1], BatchNorm2d)


def test_nothing_but_the_published_mean_follows_the_last_stage() -> None:
    model, x = network().eval(), pixels()
    states = model.features(x)
    assert states.min() < 0  # no rectifier
    pooled = avg_pool2d(states, 8).flatten(1)
    torch.testing.assert_close(model(x).logits, model.classifier(pooled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 8), (3, 64)])
def test_images_of_other_sizes(channels, side) -> None:
    model = network(num_channels=channels, num_labels=7)
    assert model(pixels(2, channels, side)).logits.shape == (2, 7)


def test_weights_start_as_torch_draws_them_and_biases_at_0() -> None:
    model = network(width=0.2)
    assert not model.classifier.bias.any()
    for layer in model.modules():
        if isinstance(layer, Conv2d):
            assert not layer.bias.any()
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_the_loss_is_the_mean_cross_entropy() -> None:
    model, labels = network().eval(), torch.tensor([1, 0, 9])
    output = model(pixels(), labels=labels)
    chosen = output.logits.log_softmax(dim=1)[range(3), labels]
    torch.testing.assert_close(output.loss, -chosen.mean())
    assert model(pixels()).loss is None


def test_it_trains_in_bfloat16() -> None:
    model = network().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(pixels(side=16)).logits
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_gradients_of_single_images() -> None:
    model, x = network().eval(), pixels(side=16)
    names = dict(model.named_parameters())

    def score(parameters, image):
        return functional_call(model, parameters, (image[None],)).logits.norm()

    parameters = {name: p.detach() for name, p in names.items()}
    gradients = vmap(grad(score), in_dims=(None, 0))(parameters, x)
    model(x[1:2]).logits.norm().backward()
    for name, parameter in names.items():
        torch.testing.assert_close(gradients[name][1], parameter.grad, atol=1e-5, rtol=1e-3)


def test_saved_and_read_it_is_the_same(tmp_path) -> None:
    model = network(num_labels=4)
    model(pixels())  # running statistics of its own
    model.save_pretrained(tmp_path)
    read = WideResNetForImageClassification.from_pretrained(tmp_path)
    assert list(read.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
