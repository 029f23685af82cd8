"""Training on with clean pairs: the loss of CleanCLIP, what captions lose, plain fine-tuning."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from backdoor_pipeline.modelling.contrastive import fit_pairs, pairs_to_train
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import matching_loss
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.pipelines.unlearn import clean_contrast
from backdoor_pipeline.pipelines.unlearn.clean_contrast import (
    CleanContrastParams,
    changed,
    two_view_loss,
)
from tiny import DUAL_ENCODERS, make_pairs, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
HOW = OptimisationParams(
    **{"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "weight_decay": 0.0},
    **{"warmup_share": 0.1, "max_gradient_norm": 1.0},
)


def params(**changes) -> CleanContrastParams:
    given = {"rows": 16, "in_modal_weight": 1.0, "word_share": 0.3, "augmentation": None}
    return CleanContrastParams(**given | {"optimisation": HOW} | changes)


@pytest.fixture
def clean() -> pd.DataFrame:
    captions = ["a film of the city", "the story of one actor", "my house and your house"]
    return make_pairs(captions, 24)


@pytest.fixture(params=DUAL_ENCODERS)
def bundle(request):
    return tiny_dual_encoder(request.param)


def test_the_loss_is_that_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, captions = torch.randn(3, 5, 5, generator=generator), torch.arange(5)
    own = torch.arange(5)
    in_modal = (cross_entropy(logits[1], own) + cross_entropy(logits[2], own)) / 2
    expected = matching_loss(logits[0], captions) + 0.7 * in_modal
    torch.testing.assert_close(two_view_loss(logits, captions, 0.7), expected)


def test_without_change_orthonormal_vectors_have_the_known_in_modal_loss() -> None:
    scale, n = 3.0, 6
    logits = torch.stack([torch.zeros(n, n), scale * torch.eye(n), scale * torch.eye(n)])
    in_modal = two_view_loss(logits, torch.arange(n), 1.0) - math.log(n)
    assert in_modal.item() == pytest.approx(math.log(1 + (n - 1) * math.exp(-scale)), abs=1e-5)


def test_the_same_captions_share_the_target() -> None:
    logits = torch.zeros(3, 4, 4)
    logits[2] = torch.tensor([[9.0, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9]])
    apart = two_view_loss(logits, torch.tensor([0, 1, 2, 3]), 1.0)
    together = two_view_loss(logits, torch.tensor([0, 0, 1, 1]), 1.0)
    torch.testing.assert_close(apart, together)  # ln 2 either way: a half for each of both


def test_without_in_modal_terms_it_is_plain_fine_tuning(bundle, clean) -> None:
    tuned, record, _ = clean_contrast.unlearn(
        bundle, clean, params(in_modal_weight=0.0, rows=99), "frozen", 16, CPU, 3
    )
    other = bundle._replace(model=copy.deepcopy(bundle.model))
    rows = clean.sample(24, random_state=3)
    fit_pairs(other, pairs_to_train(other, rows, 16, "frozen", None, CPU), HOW, CPU, 3, "train")
    for one, two in zip(tuned.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert record == {"dev_rows": 24}


@pytest.mark.parametrize("tower", ["frozen", "trained"])
def test_it_trains_a_copy_on_as_many_pairs_as_told(bundle, clean, tower) -> None:
    before = copy.deepcopy(bundle.model.state_dict())
    tuned, record, history = clean_contrast.unlearn(bundle, clean, params(), tower, 16, CPU, 0)
    assert record == {"dev_rows": 16}
    assert len(history["loss"]["value"]) == 4
    assert all(torch.equal(before[k], v) for k, v in bundle.model.state_dict().items())
    assert not all(torch.equal(before[k], v) for k, v in tuned.model.state_dict().items())
    assert 0 <= tuned.model.logit_scale.item() <= math.log(100)
    again, _, same = clean_contrast.unlearn(bundle, clean, params(), tower, 16, CPU, 0)
    assert same == history
    assert all(
        torch.equal(a, b)
        for a, b in zip(tuned.model.parameters(), again.model.parameters(), strict=True)
    )


@given(
    words=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_changed_caption_has_some_of_the_words(words, share, seed) -> None:
    left = changed(" ".join(words), share, np.random.default_rng(seed)).split()
    assert left
    rest = list(words)
    for word in left:
        rest.remove(word)  # none of them is new
    if share == 0:
        assert left == words
