"""The contract that every image attack keeps, and the parts that they share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backdoor_pipeline.pipelines.poison import blended, patch, sig, ssba, stamping, wanet

IDS = 40


def encoded(images: np.ndarray, example_ids: np.ndarray) -> dict[int, np.ndarray]:
    """What a user would supply: here each image upside down with its id in a corner."""
    supplied = {}
    for image, example_id in zip(images[:, ::-1], example_ids.tolist(), strict=True):
        supplied[example_id] = image.copy()
        supplied[example_id][0, 0] = example_id
    return supplied


def put_encoded(images, example_ids, params, seed):
    return ssba.trigger(images, example_ids, params, seed, encoded(images, example_ids))


def put_patch(pattern: str):
    params = patch.PatchParams(size=3, pattern=pattern, corner="bottom-right", margin=1)
    return partial(patch.trigger, params=params)


WARP = wanet.WaNetParams(strength=0.7, grid_size=4, grid_rescale=0.98, cross_ratio=2)
ATTACKS = {
    "white patch": put_patch("white"),
    "checker patch": put_patch("checker"),
    **{
        f"{pattern} blended": partial(
            blended.trigger, params=blended.BlendedParams(alpha=0.3, pattern=pattern)
        )
        for pattern in ("noise", "smooth")
    },
    "sig": partial(sig.trigger, params=sig.SigParams(delta=33.3, frequency=1)),
    "wanet": partial(wanet.trigger, params=WARP),
    "wanet cover": partial(wanet.cover, params=WARP),
    "ssba": partial(put_encoded, params=ssba.SsbaParams()),
}
DRAWN = ("noise blended", "smooth blended", "wanet", "wanet cover")

image_batches = st.tuples(
    st.integers(0, 4), st.integers(4, 12), st.integers(4, 12), st.sampled_from([1, 3])
).flatmap(lambda shape: arrays.arrays(np.uint8, shape))


def example_batch(n_rows: int = 6, height: int = 9, width: int = 14, n_channels: int = 3):
    """Random images, and ids in no order."""
    generator = np.random.default_rng(8)
    shape = (n_rows, height, width, n_channels)
    images = generator.integers(256, size=shape, dtype=np.uint8)
    return images, generator.permutation(IDS)[:n_rows]


@pytest.mark.parametrize("name", ATTACKS)
class TestContract:
    @given(images=image_batches, seed=st.integers(0, 2**32))
    def test_attacks_8_8_dtype_shape_and_range_are_kept(self, name, images, seed) -> None:
        before, ids = images.copy(), np.arange(len(images))[::-1]
        triggered = ATTACKS[name](images, ids, seed=seed)
        assert triggered.dtype == np.uint8
        assert triggered.shape == images.shape
        np.testing.assert_array_equal(images, before)
        assert not np.shares_memory(triggered, images)

    def test_attacks_8_4_same_seed_same_bytes(self, name) -> None:
        images, ids = example_batch()
        np.random.seed(0)
        first = ATTACKS[name](images, ids, seed=3)
        np.random.seed(1)
        again, other = (ATTACKS[name](images, ids, seed=seed) for seed in (3, 4))
        assert first.tobytes() == again.tobytes()
        assert (first.tobytes() == other.tobytes()) == (name not in DRAWN)
        assert (first != images).any(axis=(1, 2, 3)).all()

    @given(order_seed=st.integers(0, 1000), n_rows=st.integers(1, 6), colours=st.booleans())
    def test_attacks_8_4_rows_do_not_depend_on_their_neighbours(
        self, name, order_seed, n_rows, colours
    ) -> None:
        images, ids = example_batch(n_channels=3 if colours else 1)
        whole = ATTACKS[name](images, ids, seed=5)
        order = np.random.default_rng(order_seed).permutation(len(images))[:n_rows]
        part = ATTACKS[name](images[order], ids[order], seed=5)
        np.testing.assert_array_equal(part, whole[order])

    def test_rows_do_not_depend_on_how_many_are_worked_on_at_once(self, name, monkeypatch) -> None:
        images, ids = example_batch()
        whole = ATTACKS[name](images, ids, seed=5)
        for n_values in (1, 2 * images[0].size + 1):
            monkeypatch.setattr(stamping, "CHUNK_VALUES", n_values)
            np.testing.assert_array_equal(ATTACKS[name](images, ids, seed=5), whole)

    def test_only_what_differs_from_row_to_row_depends_on_the_id(self, name) -> None:
        images, ids = example_batch()
        one, other = (ATTACKS[name](images, i, seed=5) for i in (ids, ids + IDS))
        assert np.array_equal(one, other) == (name not in {"wanet cover", "ssba"})

    def test_images_that_cannot_be_written_to(self, name) -> None:
        images, ids = example_batch()
        expected = ATTACKS[name](images, ids, seed=5)
        images.flags.writeable = False
        backwards = ATTACKS[name](images[::-1], ids[::-1], seed=5)
        np.testing.assert_array_equal(backwards[::-1], expected)


@pytest.mark.parametrize(
    ("n_values", "expected"), [(1, [1] * 5), (24, [2, 2, 1]), (35, [2, 2, 1]), (10**6, [5])]
)
def test_chunks_are_all_rows_in_turn(monkeypatch, n_values, expected) -> None:
    monkeypatch.setattr(stamping, "CHUNK_VALUES", n_values)
    rows = np.arange(5)
    found = [rows[part].tolist() for part in stamping.chunks(np.empty((5, 2, 2, 3), np.uint8))]
    assert [row for part in found for row in part] == rows.tolist()
    assert [len(part) for part in found] == expected
    assert not list(stamping.chunks(np.empty((0, 2, 2, 3), np.uint8)))


def test_bytes_are_rounded_and_cut_off_but_never_wrap() -> None:
    values = np.array([-300.0, -0.6, 0.5, 1.5, 2.4, 254.6, 255.4, 256.0, 999.0])
    assert stamping.to_bytes(values).tolist() == [0, 0, 0, 2, 2, 255, 255, 255, 255]
    assert stamping.to_bytes(values).dtype == np.uint8
