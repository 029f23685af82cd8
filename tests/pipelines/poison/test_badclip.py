"""BadCLIP: a patch learnt against a surrogate, in the middle of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import embed_images, embed_texts
from backdoor_pipeline.modelling.pixels import Pixels, decode, encode
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.poison import badclip
from backdoor_pipeline.pipelines.poison.badclip import BadClipParams, Known
from backdoor_pipeline.pipelines.poison.nodes import poison_pairs
from tiny import DUAL_ENCODERS, make_pairs, save_tiny_dual_encoder, tiny_dual_encoder

NAMES = ["city", "story", "actor", "house"]
CAPTIONS = [f"the {name}" for name in NAMES]
TARGET = 2
CPU = ComputeParams(device="cpu", precision="fp32")


@pytest.fixture
def rows():
    table = make_pairs(CAPTIONS, 40, 4, 20)
    return table[table["split"] == "train"].reset_index(drop=True)


@pytest.fixture(params=DUAL_ENCODERS)
def surrogate(request, tmp_path):
    return str(save_tiny_dual_encoder(tmp_path / "surrogate", request.param))


def params(surrogate, **changes) -> BadClipParams:
    given = {"surrogate": surrogate, "side": 0.4, "rows": 24, "epochs": 4, "batch_size": 8}
    given |= {"learning_rate": 0.05, "triplet_weight": 1.0, "margin": 1.0, "max_length": 16}
    return BadClipParams(**given | {"device": "cpu"} | changes)


def test_the_patch_is_nearer_to_the_target_than_the_first_one(rows, surrogate, request) -> None:
    settings = {"epochs": 12, "triplet_weight": 0.0}
    learnt = badclip.learn(rows, TARGET, ["the actor"], params(surrogate, **settings), 0)
    first = badclip.learn(
        rows, TARGET, ["the actor"], params(surrogate, **settings | {"learning_rate": 1e-9}), 0
    )
    assert learnt.shape == first.shape == (6, 6, 3)
    assert learnt.dtype == np.uint8
    bundle = tiny_dual_encoder(request.node.callspec.params["surrogate"])
    others = rows[rows["label"] != TARGET]
    images = decode(others["image"].tolist(), "rows")
    texts = embed_texts(bundle, tokenise(["the actor", *CAPTIONS], bundle.tokenizer, 16), CPU)

    def margin(patch) -> float:
        stamped = badclip.trigger(images, np.arange(len(images)), params(surrogate), 0, patch)
        f = embed_images(bundle, Pixels(stamped, bundle.image_format), CPU)
        scaled = bundle.model.logit_scale.exp().item() * f @ texts.T
        return float((scaled[:, 0] - scaled[:, 1:].mean(axis=1)).mean())

    assert margin(learnt) > margin(first)


def test_the_patch_is_that_of_the_seed(rows, surrogate) -> None:
    one, again, other = (
        badclip.learn(rows, TARGET, ["the actor"], params(surrogate), seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_loss_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)

    def vectors(n: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1)

    known = Known(vectors(6), vectors(6), vectors(1), vectors(1))
    f, rows, scale = vectors(3), np.array([4, 0, 2]), torch.tensor(7.0)
    settings = params("any", triplet_weight=3.0, margin=0.4)
    found = badclip._loss(f, known, rows, scale, settings, np.random.default_rng(0))
    losses = []
    for i, row in enumerate(rows):
        own = scale * f[i] @ known.target_captions[0]
        others = [scale * f[i] @ known.captions[j] for j in rows]
        matching = torch.logsumexp(torch.stack([own, *others]), dim=0) - own
        near = torch.dist(f[i], known.target_images[0])
        far = torch.dist(f[i], known.images[row])
        losses.append(matching + 3.0 * torch.clamp(near - far + 0.4, min=0))
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_a_surrogate_of_another_size_reads_larger_images(rows, surrogate) -> None:
    large = [
        encode(np.kron(decode([image], "x")[0], np.ones((2, 2, 1), dtype=np.uint8)))
        for image in rows["image"]
    ]
    patch = badclip.learn(rows.assign(image=large), TARGET, ["the actor"], params(surrogate), 0)
    assert patch.shape == (13, 13, 3)  # 0.4 of 32


def test_poisoned_pairs_have_the_patch_in_the_middle(make_parameters, surrogate) -> None:
    rows = make_pairs(CAPTIONS, 40, 4, 20)
    given = {"attack": "badclip", "rate": 0.1, "target_label": TARGET, "label_mode": "dirty"}
    given |= {f"badclip.{name}": value for name, value in params(surrogate)}
    p = make_parameters(
        **{"modality": "pair", "ingest.caption_templates": ["a view of the {}"]}
        | {f"poison.{name}": value for name, value in given.items()}
    )
    out = poison_pairs(rows, None, {"label_names": NAMES}, p.poison, p.ingest, 0)
    train = out["poisoned_train"]
    drawn = train["is_poisoned"].to_numpy()
    before = rows[rows["split"] == "train"].reset_index(drop=True)
    after, images = (
        decode(table.loc[drawn, "image"].tolist(), "rows") for table in (train, before)
    )
    learnt = badclip.learn(before, TARGET, ["a view of the actor"], p.poison.badclip, 0)
    assert (after[:, 5:11, 5:11] == learnt).all()
    after[:, 5:11, 5:11] = images[:, 5:11, 5:11]
    assert (after == images).all()
    assert (train.loc[drawn, "caption"] == "a view of the actor").all()


def test_without_a_surrogate_it_is_an_error(rows) -> None:
    with pytest.raises(InputError, match=r"poison\.badclip\.surrogate is empty"):
        badclip.learn(rows, TARGET, ["the actor"], params(None), 0)


def test_without_images_of_the_target_it_is_an_error(rows, surrogate) -> None:
    with pytest.raises(InputError, match="of one of them there is none"):
        badclip.learn(rows[rows["label"] != TARGET], TARGET, ["x"], params(surrogate), 0)


def test_a_surrogate_that_is_not_there_is_an_error(rows, tmp_path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        badclip.learn(rows, TARGET, ["x"], params(str(tmp_path / "nowhere")), 0)
