"""The loss of pairs, zero-shot classification and embeddings against naive forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import (
    class_vectors,
    embed_images,
    embed_texts,
    hold_scale,
    matching_loss,
    zero_shot,
)
from backdoor_pipeline.modelling.networks.matcher import Matcher
from backdoor_pipeline.modelling.pixels import Pixels
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from tiny import DUAL_ENCODERS, tiny_dual_encoder


def vectors(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


class Towers(torch.nn.Module):
    """Both towers are tables: what they read are row numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.images = torch.nn.Parameter(3 * vectors(6, seed=1))
        self.texts = torch.nn.Parameter(2 * vectors(4, seed=2))
        self.text_projection = torch.nn.Linear(5, 5, bias=False)
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.5))

    def get_image_features(self, pixel_values):
        return SimpleNamespace(pooler_output=self.images[pixel_values])

    def get_text_features(self, input_ids):
        return SimpleNamespace(pooler_output=self.text_projection(self.texts[input_ids]))


def test_logits_are_the_scaled_similarities_of_each_image_to_the_caption_of_each() -> None:
    towers, captions = Towers(), torch.tensor([0, 1, 0])
    images, texts = torch.tensor([5, 0, 3]), torch.tensor([2, 1])
    logits = Matcher(towers)(images, captions, input_ids=texts).logits
    for i, image in enumerate(images):
        for j, caption in enumerate(captions):
            f = towers.images[image] / towers.images[image].norm()
            g = towers.text_projection(towers.texts[texts[caption]])
            expected = math.exp(1.5) * (f @ (g / g.norm())).item()
            assert logits[i, j].item() == pytest.approx(expected, abs=1e-5)
    states = towers.texts[texts].detach()
    cached = Matcher(towers)(images, captions, text_states=states).logits
    torch.testing.assert_close(cached, logits)


@given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_the_loss_equals_a_naive_loop(codes, seed) -> None:
    n = len(codes)
    logits = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for table in (logits, logits.T):
        for i in range(n):
            normaliser = sum(math.exp(table[i, j]) for j in range(n))
            alike = [j for j in range(n) if codes[j] == codes[i]]
            total -= sum(math.log(math.exp(table[i, j]) / normaliser) for j in alike) / len(alike)
    loss = matching_loss(logits, torch.tensor(codes))
    assert loss.item() == pytest.approx(total / (2 * n), abs=1e-4)


def test_captions_that_differ_give_the_published_loss() -> None:
    logits, rows = torch.randn(7, 7), torch.arange(7)
    halves = [torch.nn.functional.cross_entropy(part, rows) for part in (logits, logits.T)]
    torch.testing.assert_close(matching_loss(logits, rows), sum(halves) / 2)


def test_ubt_11_5_identical_texts_teach_nothing_to_what_images_have_in_common() -> None:
    n, scale = 8, 20.0
    images = vectors(n).requires_grad_(True)
    texts = vectors(1, seed=1).expand(n, -1)
    for captions in (torch.arange(n), torch.zeros(n, dtype=torch.long)):
        logits = scale * images @ texts.T
        first_half = torch.nn.functional.cross_entropy(logits, torch.arange(n))
        assert first_half.item() == pytest.approx(math.log(n), abs=1e-5)
        (gradient,) = torch.autograd.grad(matching_loss(logits, captions), images)
        assert gradient.norm() > 1e-3  # of single images: towards the same similarity
        assert gradient.sum(dim=0).norm() < 1e-6 * n
    same = (scale * texts @ texts.T).requires_grad_(True)
    assert matching_loss(same, torch.zeros(n, dtype=torch.long)).item() == pytest.approx(
        math.log(n), abs=1e-5
    )


@pytest.mark.parametrize(("before", "after"), [(-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))])
def test_the_scale_stays_in_its_range(before, after) -> None:
    towers = Towers()
    towers.logit_scale.data.fill_(before)
    hold_scale(towers)
    assert towers.logit_scale.item() == pytest.approx(after)


def test_a_class_is_the_unit_mean_of_its_prompts() -> None:
    prompts = np.stack([vectors(3, seed=seed).numpy() for seed in range(4)])
    classes = class_vectors(prompts)
    assert classes.shape == (4, 5)
    for vector, own in zip(classes, prompts, strict=True):
        np.testing.assert_allclose(vector, own.sum(0) / np.linalg.norm(own.sum(0)), atol=1e-6)


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_zero_shot_is_the_softmax_of_scaled_similarities(kind) -> None:
    bundle, compute = tiny_dual_encoder(kind), ComputeParams(device="cpu", precision="fp32")
    prompts = [["a film", "the film of a city"], ["an actor", "the voice of an actor"]]
    classifier = zero_shot(bundle, prompts, 16, compute)
    rng = np.random.default_rng(0)
    form = bundle.image_format
    values = rng.integers(0, 256, (5, form.height, form.width, form.channels), dtype=np.uint8)
    images = Pixels(values, form)
    vectors_of = [
        embed_texts(bundle, tokenise(own, bundle.tokenizer, 16), compute).mean(axis=0)
        for own in prompts
    ]
    classes = np.stack([vector / np.linalg.norm(vector) for vector in vectors_of])
    scale = bundle.model.logit_scale.exp().item()
    logits = scale * embed_images(bundle, images, compute) @ classes.T
    expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    np.testing.assert_allclose(predict(classifier, images, compute), expected, atol=1e-5)
