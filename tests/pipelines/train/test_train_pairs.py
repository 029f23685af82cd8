"""Trainings of dual encoders that resist: RoCLIP against brute force, isolation, the plain one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from backdoor_pipeline.modelling.contrastive import fit_pairs, pairs_to_train
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import matching_loss
from backdoor_pipeline.modelling.networks.bank_matcher import BankMatcher
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.pipelines.train import pair_isolation, roclip
from backdoor_pipeline.pipelines.train.nodes import train_pair_reference, train_pair_victim
from backdoor_pipeline.pipelines.train.pair_isolation import (
    PairIsolationParams,
    ascent_loss,
    pair_losses,
    row_losses,
)
from backdoor_pipeline.pipelines.train.roclip import RoclipParams
from tiny import DUAL_ENCODERS, make_pairs, save_tiny_dual_encoder, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
CAPTIONS = ["a film of the city", "the story", "one actor", "my house"]


def table(n: int = 24, seed: int = 0) -> pd.DataFrame:
    return make_pairs(CAPTIONS, n, seed=seed)


def how(**changes) -> OptimisationParams:
    given = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "weight_decay": 0.0}
    return OptimisationParams(
        **given | {"warmup_share": 0.0, "max_gradient_norm": 1.0, "optimiser": "adamw"} | changes
    )


@pytest.fixture(params=DUAL_ENCODERS)
def bundle(request):
    return tiny_dual_encoder(request.param)


def weights(bundle) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}


@pytest.mark.parametrize("tower", ["frozen", "trained"])
def test_a_frozen_text_tower_stays_as_it_is(bundle, tower) -> None:
    before = weights(bundle)
    pairs = pairs_to_train(bundle, table(), 16, tower, None, CPU)
    history = fit_pairs(bundle, pairs, how(), CPU, 0, "train")
    after = bundle.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("vision_model") for name in changed)
    assert "text_projection.weight" in changed
    assert any(name.startswith("text_model") for name in changed) == (tower == "trained")
    assert len(history["loss"]["value"]) == 6
    assert 0 <= bundle.model.logit_scale.item() <= math.log(100)
    assert not bundle.model.training
    assert all(parameter.requires_grad for parameter in bundle.model.parameters())


def test_what_a_frozen_tower_makes_is_the_same_computed_once(bundle) -> None:
    other = tiny_dual_encoder(bundle.model.config.model_type)
    cached = pairs_to_train(bundle, table(), 16, "frozen", None, CPU)
    fit_pairs(bundle, cached, how(), CPU, 0, "train")
    pairs = pairs_to_train(other, table(), 16, "trained", None, CPU)
    other.model.text_model.eval()  # nothing there is random, nothing of it is stepped
    for parameter in other.model.text_model.parameters():
        parameter.requires_grad_(False)
    assert cached.states is not None
    assert pairs.states is None
    assert len(cached.texts) == len(pairs.texts) == 4


class TestRoclip:
    @pytest.mark.parametrize(("bank", "every"), [(0, 1), (9, 3)], ids=["empty", "asked too late"])
    def test_a_bank_that_is_not_asked_is_the_ordinary_training(self, bundle, bank, every) -> None:
        other = tiny_dual_encoder(bundle.model.config.model_type)
        pairs = pairs_to_train(bundle, table(), 16, "frozen", None, CPU)
        roclip.train(bundle, pairs, RoclipParams(bank=bank, every=every), how(), CPU, 0)
        fit_pairs(other, pairs, how(), CPU, 0, "train")
        for one, two in zip(bundle.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_partners_are_the_nearest_of_the_bank_and_the_oldest_leave(self, bundle) -> None:
        pairs = pairs_to_train(bundle, table(), 16, "frozen", None, CPU)
        generator = torch.Generator().manual_seed(0)
        bank = normalize(torch.randn(10, 16, generator=generator), dim=1)
        matcher = BankMatcher(bundle.model, bank.clone())
        matcher.asks = True
        batch = pairs.collate(np.arange(4), torch.device("cpu"))
        logits = matcher(**batch).logits
        with torch.no_grad():
            f = normalize(
                bundle.model.get_image_features(batch["pixel_values"]).pooler_output, dim=1
            )
        nearest = [max(range(10), key=lambda k, i=i: float(f[i] @ bank[k])) for i in range(4)]
        assert matcher.partners.tolist() == nearest
        scale = bundle.model.logit_scale.exp()
        torch.testing.assert_close(logits, scale * f @ bank[nearest].T)
        torch.testing.assert_close(matcher.bank[:6], bank[4:])  # first in, first out
        assert not matcher.bank.requires_grad
        loss = matcher.loss(logits, torch.arange(4))
        torch.testing.assert_close(loss, matching_loss(logits, torch.tensor(nearest)))

    def test_texts_get_no_gradient_where_the_bank_is_asked(self, bundle) -> None:
        pairs = pairs_to_train(bundle, table(), 16, "trained", None, CPU)
        matcher = BankMatcher(bundle.model, normalize(torch.randn(10, 16), dim=1))
        batch = pairs.collate(np.arange(4), torch.device("cpu"))
        for asks in (True, False):
            bundle.model.zero_grad()
            matcher.asks = asks
            matcher.loss(matcher(**batch).logits, batch["captions"]).backward()
            gradients = [p.grad for p in bundle.model.text_projection.parameters()]
            assert all(gradient is None for gradient in gradients) == asks


class TestIsolation:
    PARAMS = PairIsolationParams(
        isolation_epochs=1,
        isolation_share=0.25,
        ascent_epochs=3,
        ascent_learning_rate=1e-3,
        ascent_ceiling=4.0,
    )

    def test_row_losses_mean_the_loss_of_the_batch(self) -> None:
        logits, captions = torch.randn(6, 6), torch.tensor([0, 1, 0, 2, 2, 3])
        torch.testing.assert_close(
            row_losses(logits, captions).mean(), matching_loss(logits, captions)
        )

    def test_a_common_caption_alone_makes_no_loss(self, bundle, monkeypatch) -> None:
        """A model that is right of each pair has no loss, however often a caption is there."""
        pairs = pairs_to_train(bundle, table(), 16, "frozen", None, CPU)
        own = np.eye(len(pairs.texts), dtype=np.float32)
        module = "backdoor_pipeline.pipelines.train.pair_isolation"
        monkeypatch.setattr(f"{module}.embed_images", lambda *_: own[pairs.captions])
        monkeypatch.setattr(f"{module}.embed_texts", lambda *_: own)
        bundle.model.logit_scale.data.fill_(np.log(100))
        np.testing.assert_allclose(pair_losses(bundle, pairs, 8, CPU, 0), 0, atol=1e-5)

    def test_isolated_pairs_are_unlearnt_up_to_the_ceiling(self) -> None:
        logits = (5 * torch.eye(4)).requires_grad_()
        labels = torch.tensor([0, 1, 4 + 2, 4 + 3])
        losses = row_losses(logits, labels % 4)
        expected = (losses[2] + losses[3] - losses[0] - losses[1]) / 4
        torch.testing.assert_close(ascent_loss(logits, labels, 4, 9.0), expected)
        (held,) = torch.autograd.grad(ascent_loss(logits, labels, 4, 0.0), logits)
        (others,) = torch.autograd.grad((losses[2] + losses[3]) / 4, logits)
        torch.testing.assert_close(held, others)

    def test_the_pairs_of_lowest_loss_are_isolated_and_their_loss_rises(self, bundle) -> None:
        pairs = pairs_to_train(bundle, table(), 16, "frozen", None, CPU)
        twin = tiny_dual_encoder(bundle.model.config.model_type)
        settings = (how(), CPU, 0)
        history, isolated = pair_isolation.train(bundle, pairs, self.PARAMS, *settings)
        assert len(isolated) == 6
        assert history["loss"]["step"] == list(range(1, 3 + 2 * 3 + 3 * 2 + 1))
        without = self.PARAMS.model_copy(update={"ascent_epochs": 0})
        _, same = pair_isolation.train(twin, pairs, without, *settings)
        assert isolated.tolist() == same.tolist()
        up, plain = (pair_losses(b, pairs, 8, CPU, 0)[isolated].mean() for b in (bundle, twin))
        assert up > plain


@pytest.fixture
def configured(make_parameters):
    """Kedro's logging is set up by the first parameters; later it would take pytest's away."""
    make_parameters()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_the_nodes_train_models_of_transformers(kind, tmp_path, make_parameters, caplog) -> None:
    folder = save_tiny_dual_encoder(tmp_path / kind, kind)
    changes = {"model.name": str(folder), "model.tower": None, "model.max_length": 5}
    p = make_parameters(modality="pair", **changes | {"training.epochs": 1})
    rows = table()
    settings = (p.training, p.model, CPU, 0)
    victim, history = train_pair_victim(rows, *settings)
    reference, _ = train_pair_reference(rows, *settings)
    assert victim.model.config.model_type == kind
    assert history["loss"]["value"]
    for one, two in zip(victim.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(one, two)  # of the same rows
    assert "of 24 captions have 5 tokens or more" in caplog.text


def test_more_tokens_than_positions_are_refused(tmp_path, make_parameters) -> None:
    from backdoor_pipeline.errors import InputError

    folder = save_tiny_dual_encoder(tmp_path / "clip", "clip")
    changes = {"model.name": str(folder), "model.tower": None, "model.max_length": 33}
    p = make_parameters(modality="pair", **changes)
    with pytest.raises(InputError, match=r"33 is beyond the 32 positions of the text tower"):
        train_pair_victim(table(), p.training, p.model, CPU, 0)
