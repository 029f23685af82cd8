"""Pairs as a dual encoder reads them, and what it makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import (
    embed_captions,
    embed_images,
    embed_texts,
    matching_loss,
    text_states,
)
from backdoor_pipeline.modelling.networks.matcher import Matcher
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import encode
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from tiny import DUAL_ENCODERS, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
CAPTIONS = ["a film of the city", "the Story", "a film of the city", "the story", "one actor"]


def table(captions=CAPTIONS, seed: int = 0) -> pd.DataFrame:
    """Noisy images, the first line of which is as bright as the caption is long."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (len(captions), 16, 16, 3), dtype=np.uint8)
    for image, caption in zip(values, captions, strict=True):
        image[:4] = 12 * len(caption)
    images = [encode(image) for image in values]
    return pd.DataFrame({"example_id": range(len(captions)), "image": images, "caption": captions})


@pytest.fixture(params=DUAL_ENCODERS)
def bundle(request):
    return tiny_dual_encoder(request.param)


def test_captions_of_the_same_tokens_are_one(bundle) -> None:
    pairs = read_pairs(bundle, table(), 12)
    assert len(pairs) == 5
    assert len(pairs.texts) == 3  # the tokenizer does not know capitals
    assert pairs.captions.tolist() == [0, 1, 0, 1, 2]
    words = [bundle.tokenizer.decode(pairs.texts[i]) for i in range(3)]
    assert [w.split("[SEP]")[0].removeprefix("[CLS] ").strip() for w in words] == [
        "a film of the city",
        "the story",
        "one actor",
    ]


def test_a_batch_has_each_of_its_captions_once(bundle) -> None:
    pairs = read_pairs(bundle, table(), 12)
    batch = pairs.collate(np.array([4, 1, 3]), torch.device("cpu"))
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["captions"].tolist() == [1, 0, 0]
    assert len(batch["input_ids"]) == 2
    first = batch["input_ids"][1][batch["attention_mask"][1].bool()]
    assert first.tolist() == pairs.texts[2].tolist()


def test_they_are_taken_and_joined(bundle) -> None:
    pairs = read_pairs(bundle, table(), 12)
    some = pairs.take(np.array([4, 0]))
    assert some.captions.tolist() == [2, 0]
    both = some.joined(pairs.take(np.array([1])))
    captions = [both.texts[i].tolist() for i in both.captions]
    assert captions == [pairs.texts[i].tolist() for i in (2, 0, 1)]
    assert np.array_equal(both.images.values, pairs.images.values[[4, 0, 1]])
    assert both.states is None
    made = [replace(of, states=torch.rand(len(of.texts), 3)) for of in (some, pairs)]
    assert torch.equal(made[0].joined(made[1]).states, torch.cat([of.states for of in made]))
    assert made[0].joined(pairs).states is None


def test_captions_are_embedded_by_what_the_text_tower_made_of_them(bundle) -> None:
    pairs = read_pairs(bundle, table(), 12)
    made = replace(pairs, states=text_states(bundle, pairs.texts, CPU))
    expected = embed_texts(bundle, pairs.texts, CPU)
    for of in (pairs, made):
        np.testing.assert_allclose(embed_captions(bundle, of, CPU), expected, atol=1e-5)
    none = replace(made, states=torch.zeros_like(made.states))
    assert not np.allclose(embed_captions(bundle, none, CPU), expected, atol=1e-3)


def test_no_pairs(bundle) -> None:
    assert len(read_pairs(bundle, table([]), 12)) == 0


def test_logits_are_those_of_the_dual_encoder(bundle) -> None:
    pairs = read_pairs(bundle, table(), 12)
    rows, device = np.arange(5), torch.device("cpu")
    pixels = pairs.images.collate(rows, device)
    texts = pairs.texts.collate(pairs.captions, device)
    with torch.no_grad():
        expected = bundle.model(**pixels, **texts).logits_per_image
        logits = Matcher(bundle.model)(**pairs.collate(rows, device)).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_ubt_11_3_similarities_equal_a_loop_over_single_pairs(bundle, monkeypatch) -> None:
    pairs = read_pairs(bundle, table(), 12)
    monkeypatch.setattr("backdoor_pipeline.modelling.prediction.BATCH_ROWS", 2)
    images = embed_images(bundle, pairs.images, CPU)
    texts = embed_texts(bundle, pairs.texts, CPU)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    similarities = (images * texts[pairs.captions]).sum(axis=1)
    backwards = np.arange(5)[::-1]
    other_order = embed_images(bundle, pairs.images.take(backwards), CPU)[backwards]
    np.testing.assert_allclose(other_order, images, atol=1e-5)
    scale = bundle.model.logit_scale.exp().item()
    for row, similarity in enumerate(similarities):
        one = pairs.take(np.array([row]))
        single = {
            **one.images.collate(np.array([0]), torch.device("cpu")),
            **one.texts.collate(one.captions, torch.device("cpu")),
        }
        with torch.no_grad():
            alone = bundle.model(**single).logits_per_image.item() / scale
        assert similarity == pytest.approx(alone, abs=1e-5)


def test_what_a_frozen_text_tower_gave_stands_for_the_texts(bundle) -> None:
    from dataclasses import replace

    pairs = read_pairs(bundle, table(), 12)
    states = text_states(bundle, pairs.texts, CPU)
    known = replace(pairs, states=states)
    rows, device = np.array([3, 0, 4]), torch.device("cpu")
    with torch.no_grad():
        asked, kept = (
            Matcher(bundle.model)(**some.collate(rows, device)).logits for some in (pairs, known)
        )
    torch.testing.assert_close(kept, asked, atol=1e-5, rtol=1e-5)
    assert known.take(rows).states is states


def test_the_training_loop_brings_pairs_together(bundle) -> None:
    pairs = read_pairs(bundle, table(CAPTIONS * 8), 12)
    matcher = bundle._replace(model=Matcher(bundle.model))
    params = OptimisationParams(
        epochs=8,
        learning_rate=5e-3,
        batch_size=10,
        weight_decay=0.0,
        warmup_share=0.0,
        max_gradient_norm=1.0,
    )
    before = bundle.model.logit_scale.item()
    history = fit(
        matcher,
        Labelled(pairs, pairs.captions),
        None,
        params,
        CPU,
        0,
        objective=matching_loss,
        loss=matching_loss,
    )
    losses = history["loss"]["value"]
    assert len(losses) == 32
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    assert bundle.model.logit_scale.item() != before


def test_of_no_rows_there_are_no_pairs() -> None:
    rows = pd.DataFrame({"example_id": [], "image": [], "caption": []})
    pairs = read_pairs(tiny_dual_encoder("clip"), rows, 16)
    assert len(pairs) == len(pairs.images) == len(pairs.texts) == 0
