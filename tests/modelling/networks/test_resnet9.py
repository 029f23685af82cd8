"""ResNet-9: the published sizes, shapes and first weights, and all that trainings ask of it."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import CELU, BatchNorm2d, Conv2d

from backdoor_pipeline.modelling.networks.resnet9 import (
    ResNet9Config,
    ResNet9ForImageClassification,
    Unit,
)


def network(width: float = 0.125, **settings) -> ResNet9ForImageClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNet9Config(width=width, **{"num_labels": 10, **settings})
        return ResNet9ForImageClassification(config)


def pixels(n: int = 4, channels: int = 3, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(n, channels, side, side, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_potion_13_9_number_of_parameters() -> None:
    assert size(network(width=1)) == 2_276_224
    assert size(network(width=0.5)) == 570_816


def test_shapes_from_layer_to_layer() -> None:
    model, shapes = network(width=1).eval(), []
    for layer in model.features:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    model(pixels(n=1))
    assert shapes == [
        (64, 32, 32),
        (128, 16, 16),
        (128, 16, 16),
        (256, 16, 16),
        (256, 8, 8),
        (256, 8, 8),
        (128, 6, 6),
    ]
    assert model.classifier.weight.shape == (10, 128)
    assert model.classifier.bias is None
    assert {layer.alpha for layer in model.modules() if isinstance(layer, CELU)} == {0.075}


def test_logits_equal_the_published_formula() -> None:
    model, x = network().eval(), pixels()

    def unit(layers, x):
        convolution, normalisation, _ = layers
        x = normalisation(convolution(x))
        return torch.where(x > 0, x, 0.075 * torch.expm1(x / 0.075))

    def residual(layer, x):
        return x + unit(layer.units[1], unit(layer.units[0], x))

    first, second, third, fourth, pool, fifth, last = model.features
    states = residual(third, unit(second, unit(first, x)))
    states = torch.nn.functional.max_pool2d(unit(fourth, states), 2)
    states = torch.nn.functional.adaptive_max_pool2d(unit(last, residual(fifth, states)), 1)
    expected = states.flatten(1) @ model.classifier.weight.T
    torch.testing.assert_close(model(x).logits, expected, atol=1e-5, rtol=1e-5)
    assert pool.kernel_size == 2


def test_evaluation_equals_layer_after_layer() -> None:
    unit = Unit(3, 5, kernel=5, stride=2, padding=2).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in (*unit.parameters(), unit[1].running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        unit[1].running_var.uniform_(0.2, 3, generator=generator)
    x = pixels(n=6, side=11).double().requires_grad_()
    inputs = (x, *unit.parameters())
    weights = torch.randn(6, 5, 6, 6, generator=generator, dtype=torch.double)
    for forward in (unit.eval(), unit.train()):
        output = forward(x)
        expected = torch.nn.Sequential.forward(unit, x)
        torch.testing.assert_close(output, expected)
        gradients = torch.autograd.grad((output * weights).sum(), inputs)
        torch.testing.assert_close(
            gradients, torch.autograd.grad((expected * weights).sum(), inputs)
        )


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 11), (3, 64)])
def test_images_of_other_sizes(channels, side) -> None:
    model = network(num_channels=channels, num_labels=7)
    assert model(pixels(2, channels, side)).logits.shape == (2, 7)


def test_weights_start_as_torch_draws_them_and_biases_at_0() -> None:
    model = network(width=1)
    for layer in model.modules():
        if isinstance(layer, Conv2d):
            assert not layer.bias.any()
            bound = layer.weight[0].numel() ** -0.5  # of a uniform distribution
            assert 0.95 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        if isinstance(layer, BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
    assert 0.95 * 128**-0.5 < model.classifier.weight.abs().max() <= 128**-0.5


def test_the_loss_is_the_mean_cross_entropy() -> None:
    model, labels = network().eval(), torch.tensor([1, 0, 9, 3])
    output = model(pixels(), labels=labels)
    chosen = output.logits.log_softmax(dim=1)[range(4), labels]
    torch.testing.assert_close(output.loss, -chosen.mean())
    assert model(pixels()).loss is None


def test_it_trains_in_bfloat16() -> None:
    model = network().train()
    before = model.features[0][1].running_mean.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(pixels()).logits
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (model.features[0][1].running_mean != before).any()


def test_gradients_of_single_images() -> None:
    model = network().eval()
    names = dict(model.named_parameters())

    def score(parameters, image):
        return functional_call(model, parameters, (image[None],)).logits.norm()

    parameters = {name: p.detach() for name, p in names.items()}
    gradients = vmap(grad(score), in_dims=(None, 0))(parameters, pixels())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for row, image in enumerate(pixels()):
        model.zero_grad()
        model(image[None]).logits.norm().backward()
        for name, parameter in names.items():
            torch.testing.assert_close(gradients[name][row], parameter.grad, atol=1e-5, rtol=1e-3)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_saved_and_read_it_is_the_same(tmp_path) -> None:
    model = network(num_channels=1, num_labels=4)
    model(pixels(channels=1))  # running statistics of its own
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    read = ResNet9ForImageClassification.from_pretrained(tmp_path)
    assert read.config.width == 0.125
    assert list(read.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    x = pixels(channels=1)
    assert torch.equal(read.eval()(x).logits, model.eval()(x).logits)
