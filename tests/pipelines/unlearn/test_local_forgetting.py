"""Local forgetting: the blamed words, the product, what is kept, and when it ends."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.blame import blame, local_texts
from backdoor_pipeline.modelling.bundle import PairBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.dual_encoders import new_dual_encoder
from backdoor_pipeline.modelling.matching import embed_images, embed_texts, matching_loss
from backdoor_pipeline.modelling.networks.matcher import Matcher
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import ImageFormat, encode
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from backdoor_pipeline.pipelines.unlearn import local_forgetting
from backdoor_pipeline.pipelines.unlearn.local_forgetting import (
    LocalForgettingParams,
    forget_loss,
    localised,
    similarity,
    unlearn,
)
from tiny import DUAL_ENCODERS, NEUTRAL, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
FORM = ImageFormat(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CAPTIONS = ["a film of the city", "the story of one actor", "two people in a house"]


def params(**changes: Any) -> LocalForgettingParams:
    optimisation = {
        **{"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "weight_decay": 0.0},
        **{"warmup_share": 0.0, "max_gradient_norm": 1.0},
        **changes.pop("optimisation", {}),
    }
    base = {
        **{"tokens": 2, "mask": "drop", "product": True, "forget_loss": "hinge"},
        **{"unlearn_target": 0.0},
        **{"forget_weight": 1.0, "keep_weight": 1.0, "keep_rows": 20, "trained": "all"},
        **{"early_stop": False, "max_drift": None, "steps": 20},
    }
    optimised = OptimisationParams(**optimisation)
    return LocalForgettingParams(optimisation=optimised, **(base | changes))


def pairs_of(bundle, captions, seed: int = 0, triggered: bool = False):
    """Pairs of noisy images; the first lines of triggered ones are white."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (len(captions), 16, 16, 3), dtype=np.uint8)
    values[:, :6] = 255 if triggered else values[:, :6] // 4
    images = [encode(image) for image in values]
    rows = pd.DataFrame({"example_id": range(len(captions)), "image": images, "caption": captions})
    return read_pairs(bundle, rows, 16)


SUSPECTED = ["city film", "story actor", "family house"] * 2  # of as many words as are blamed
OTHERS = ["people in the music", "one crew"] * 6


def sets(bundle):
    """The suspected pairs, and those to keep."""
    return pairs_of(bundle, SUSPECTED, 1, triggered=True), pairs_of(bundle, OTHERS, 2)


def mixed(bundle):
    """As ``sets``, with a pair among the suspected ones that is none."""
    forget, keep = sets(bundle)
    return forget.take(np.arange(5)).joined(keep.take(np.array([0]))), keep


@pytest.fixture(scope="module", params=[*DUAL_ENCODERS, "resnet9"])
def victim(request, base_model) -> PairBundle:
    """It ties white lines to the suspected captions. Only look at it."""
    if request.param == "resnet9":
        bundle = new_dual_encoder("resnet9", base_model(), FORM, 0.125, 24, 0)
    else:
        bundle = tiny_dual_encoder(request.param)
    forget, keep = sets(bundle)
    pairs = forget.joined(keep)
    matcher = bundle._replace(model=Matcher(bundle.model))
    training = params(optimisation={"epochs": 60, "learning_rate": 1e-3}).optimisation
    data, losses = Labelled(pairs, pairs.captions), {"objective": matching_loss}
    fit(matcher, data, None, training, CPU, 0, loss=matching_loss, **losses)
    return bundle._replace(model=bundle.model.eval())


def state(bundle) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}


def test_texts_are_the_blamed_words_which_are_counted() -> None:
    bundle = tiny_dual_encoder("clip")
    pairs = pairs_of(bundle, [*CAPTIONS, CAPTIONS[0]])
    local, tokens = localised(bundle, pairs, params(), CPU, 0)
    special = np.array(bundle.tokenizer.all_special_ids)
    expected = local_texts(pairs, blame(bundle, pairs, CPU), special, 2)
    counted = Counter()
    for row in range(4):
        text = local.texts[local.captions[row]].tolist()
        assert text == expected[row].tolist()
        counted.update(set(bundle.tokenizer.convert_ids_to_tokens(text)) - {"[CLS]", "[SEP]"})
    assert tokens == dict(counted)
    assert list(tokens.values()) == sorted(tokens.values(), reverse=True)
    padded, _ = localised(bundle, pairs, params(mask="pad"), CPU, 0)
    for row in range(4):
        text, whole = padded.texts[row], pairs.texts[pairs.captions[row]]
        assert len(text) == len(whole)
        assert text[text != pairs.texts.pad_id].tolist() == expected[row].tolist()
    whole, _ = localised(bundle, pairs, params(tokens=None), CPU, 0)
    assert whole.texts[whole.captions[1]].tolist() == pairs.texts[pairs.captions[1]].tolist()


def test_padding_that_ends_a_text_is_refused() -> None:
    bundle = tiny_dual_encoder("clip")
    bundle.tokenizer.eos_token = bundle.tokenizer.pad_token
    with pytest.raises(InputError, match=r"mask is pad, but the padding .* choose drop"):
        localised(bundle, pairs_of(bundle, CAPTIONS), params(mask="pad"), CPU, 0)


def test_tokens_may_be_drawn() -> None:
    bundle = tiny_dual_encoder("clip")
    pairs = pairs_of(bundle, CAPTIONS * 4)
    one, again, other = (
        localised(bundle, pairs, params(mask="random_subset"), CPU, seed)[0].texts
        for seed in (0, 0, 1)
    )
    assert one.ids.tolist() == again.ids.tolist() != other.ids.tolist()
    for row in range(12):
        whole, text = pairs.texts[pairs.captions[row]].tolist(), one[row].tolist()
        assert len(text) == 4
        assert (text[0], text[-1]) == (whole[0], whole[-1])
        assert set(text) <= set(whole)


class TestUnlearn:
    def test_ubt_11_7_the_product_has_every_image_with_every_text(self, victim) -> None:
        forget, keep = mixed(victim)
        images = embed_images(victim, forget.images, CPU)
        texts = embed_texts(victim, forget.texts, CPU)
        every = images @ texts[forget.captions].T
        assert every.shape == (6, 6)
        for product, expected in ((True, every.mean()), (False, every.diagonal().mean())):
            assert similarity(victim, forget, product, CPU) == pytest.approx(expected, abs=1e-5)
            asked = params(product=product, tokens=None, forget_loss="square_target", steps=1)
            _, record, history = unlearn(victim, forget, keep, asked, CPU, 0)
            assert record["similarity_before"] == pytest.approx(expected, abs=1e-5)
            assert history["similarity"]["value"][0] == pytest.approx(expected, abs=1e-5)
        assert every.mean() != pytest.approx(every.diagonal().mean(), abs=1e-2)

    def test_ubt_11_7_the_product_unties_images_from_each_others_texts(self, victim) -> None:
        forget, keep = mixed(victim)

        def others(product: bool) -> float:
            asked = {"forget_loss": "square_target", "unlearn_target": 1.0, "keep_weight": 0.0}
            asked |= {"tokens": None, "product": product, "steps": 1}
            made, *_ = unlearn(victim, forget, keep, params(**asked), CPU, 0)
            before, after = (
                embed_images(of, forget.images, CPU)
                @ embed_texts(of, forget.texts, CPU)[forget.captions].T
                for of in (victim, made)
            )
            other = ~np.isclose(before, before.diagonal()[:, None])
            return float((after - before)[other].mean())

        assert others(True) < others(False)

    def test_what_is_unrelated_is_measured_with_the_victim(self, victim, monkeypatch) -> None:
        forget, keep = sets(victim)
        local, _ = localised(victim, forget, params(), CPU, 0)
        images = embed_images(victim, keep.images, CPU)
        expected = (images @ embed_texts(victim, local.texts, CPU)[local.captions].T).mean()
        hinges = []

        def noted(pairs, logits, other_logits, unrelated, params):
            hinges.append(unrelated)
            return forget_loss(pairs, logits, other_logits, unrelated, params)

        monkeypatch.setattr(local_forgetting, "forget_loss", noted)
        _, record, _ = unlearn(victim, forget, keep, params(steps=2), CPU, 0)
        assert record["unrelated"] == pytest.approx(expected, abs=1e-5)
        assert hinges == [record["unrelated"]] * 2

    def test_ubt_11_1_nothing_suspected_is_nothing_done(self, victim) -> None:
        forget, keep = sets(victim)
        result, record, _ = unlearn(victim, forget.take(np.arange(0)), keep, params(), CPU, 0)
        assert result is victim
        assert record["steps"] == 0

    def test_nothing_to_keep(self, victim) -> None:
        forget, keep = sets(victim)
        with pytest.raises(InputError, match="flag fewer"):
            unlearn(victim, forget, keep.take(np.arange(0)), params(), CPU, 0)

    @pytest.mark.parametrize("trained", ["all", "visual", "text"])
    def test_ubt_11_2_without_a_forgetting_term_nothing_changes(self, victim, trained) -> None:
        forget, _ = sets(victim)
        rng = np.random.default_rng(0)  # of many lengths, so that rounding differs by batch
        captions = [" ".join(rng.choice(NEUTRAL, 1 + i % 11)) for i in range(200)]
        keep = pairs_of(victim, captions, 2)
        before = state(victim)
        asked = {"forget_loss": "square_target", "trained": trained, "steps": 40}
        asked |= {"optimisation": {"batch_size": 64}}
        result, _, _ = unlearn(victim, forget, keep, params(forget_weight=0.0, **asked), CPU, 0)
        for name, tensor in result.model.state_dict().items():
            torch.testing.assert_close(tensor, before[name], atol=1e-7, rtol=0)
        _, _, history = unlearn(victim, forget, keep, params(**asked), CPU, 0)
        assert history["drift"]["value"][0] < 1e-9  # what is kept is where it was
        assert history["drift"]["value"][-1] > 1e-6

    @pytest.mark.parametrize("trained", ["all", "visual", "text"])
    def test_ubt_11_8_only_what_is_trained_changes_and_no_statistics(self, victim, trained) -> None:
        forget, keep = sets(victim)
        before, buffers = state(victim), dict(victim.model.named_buffers())
        asked = params(forget_loss="square_target", unlearn_target=1.0, trained=trained, steps=3)
        result, record, history = unlearn(victim, forget, keep, asked, CPU, 0)
        after = state(result)
        assert all(torch.equal(before[name], tensor) for name, tensor in state(victim).items())
        changed = {
            name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        towers = {"visual": {"vision_model", "visual_projection"}}
        towers["text"] = {"text_model", "text_projection"}
        towers["all"] = towers["visual"] | towers["text"]
        assert changed == towers[trained]
        for name, buffer in result.model.named_buffers():
            assert torch.equal(buffer, buffers[name]), name
        assert len(history["similarity"]["value"]) == record["steps"]
        assert record["drift"] > 1e-6  # of whichever tower is trained
        assert all(p.requires_grad for p in result.model.parameters())

    def test_it_ends_where_images_and_texts_are_unrelated(self, victim) -> None:
        forget, keep = sets(victim)
        asked = params(
            keep_weight=0.0, early_stop=True, steps=200, optimisation={"learning_rate": 3e-3}
        )
        result, record, _ = unlearn(victim, forget, keep, asked, CPU, 0)
        assert record["similarity_before"] > record["unrelated"] + 0.1
        assert record["converged"]
        assert 0 < record["steps"] < 200
        local, _ = localised(victim, forget, params(), CPU, 0)
        assert record["similarity_after"] == pytest.approx(
            similarity(result, local, True, CPU), abs=1e-6
        )
        assert record["similarity_after"] <= record["unrelated"] + 0.01

    def test_the_same_seed_gives_the_same_model(self, victim) -> None:
        forget, keep = sets(victim)
        asked = params(forget_loss="square_target", steps=4, optimisation={"batch_size": 3})
        first, again, other = (
            state(unlearn(victim, forget, keep, asked, CPU, seed)[0]) for seed in (0, 0, 1)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_drift_is_kept_small(self, victim) -> None:
        forget, keep = sets(victim)
        asked = {"forget_loss": "square_target", "unlearn_target": 1.0, "steps": 30}
        held, free = (
            unlearn(victim, forget, keep, params(**asked, keep_weight=weight), CPU, 0)[1]["drift"]
            for weight in (30.0, 0.0)
        )
        assert held < free
        short = params(**asked, keep_weight=0.0, max_drift=free / 4)
        assert unlearn(victim, forget, keep, short, CPU, 0)[1]["steps"] < 30


class TestLosses:
    PAIRS = torch.tensor([[0.5, 0.2], [0.1, 0.9]])

    def of(self, name: str, pairs=None, **changes: Any) -> torch.Tensor:
        pairs = self.PAIRS if pairs is None else pairs
        others = 10 * torch.tensor([[0.3, -0.1], [0.0, 0.4]])
        return forget_loss(pairs, 10 * pairs, others, 0.3, params(forget_loss=name, **changes))

    def test_each_equals_its_formula(self) -> None:
        assert self.of("hinge").item() == pytest.approx((0.2 + 0.6) / 4)
        assert self.of("squared_hinge").item() == pytest.approx((0.04 + 0.36) / 4)
        expected = (0.25 + 0.04 + 0.01 + 0.81) / 4
        assert self.of("square_target").item() == pytest.approx(expected)
        total = 0.0
        for own, others in (((5.0, 2.0), (3.0, -1.0)), ((1.0, 9.0), (0.0, 4.0))):
            normaliser = sum(math.exp(x) for x in (*own, *others))
            total += sum(x - math.log(normaliser) for x in own)
        assert self.of("negative_matching").item() == pytest.approx(total / 4, abs=1e-5)

    @pytest.mark.parametrize(("target", "towards"), [(0.0, 0.0), (1.0, -1.0)])
    def test_ubt_11_9_square_target_goes_where_it_should(self, target, towards) -> None:
        pairs = self.PAIRS.clone().requires_grad_(True)
        self.of("square_target", pairs, unlearn_target=target).backward()
        moved = self.PAIRS - 0.1 * pairs.grad
        assert ((moved - towards).abs() < (self.PAIRS - towards).abs()).all()

    def test_ubt_11_9_a_target_that_would_be_learnt_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unlearn_target is -1.*learnt; give 0 to 1"):
            params(forget_loss="square_target", unlearn_target=-1.0)

    def test_ubt_11_5_without_other_captions_the_negative_loss_would_teach_nothing(self) -> None:
        pairs = torch.full((3, 4), 0.8, requires_grad=True)
        none = torch.empty(3, 0)
        alone = forget_loss(pairs, 10 * pairs, none, 0.3, params(forget_loss="negative_matching"))
        assert alone.item() == pytest.approx(-math.log(4))
        assert torch.autograd.grad(alone, pairs)[0].abs().max() < 1e-6
        with_others = self.of("negative_matching", pairs := self.PAIRS.clone().requires_grad_(True))
        assert torch.autograd.grad(with_others, pairs)[0].sum() > 0  # so that descent lowers s
