"""Encoded images of the user: put in place by id, and every way in which they may be missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.ssba import SsbaParams, describe, trigger

PARAMS = SsbaParams(encoded="encoded.parquet")
REMEDY = "encode these training and test images with StegaStamp.*poison.ssba.encoded.*'wanet'"


def random_images(n_rows: int, shape: tuple[int, ...] = (4, 6, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(n_rows, *shape), dtype=np.uint8)


@pytest.mark.parametrize("n_channels", [1, 3])
@given(ids=st.lists(st.integers(0, 2**62), max_size=6, unique=True), seed=st.integers(0, 10))
def test_each_image_is_replaced_by_the_one_of_its_id(n_channels, ids, seed) -> None:
    images = random_images(len(ids), (4, 6, n_channels))
    encoded = random_images(len(ids), (4, 6, n_channels), seed=1)
    supplied = dict(zip(ids, encoded, strict=True)) | {2**62 + 1: images}
    triggered = trigger(images, np.array(ids, dtype=np.int64), PARAMS, seed, supplied)
    np.testing.assert_array_equal(triggered, encoded)
    assert not np.shares_memory(triggered, encoded)


def test_without_encoded_images() -> None:
    with pytest.raises(InputError, match=f"there are none; {REMEDY}"):
        trigger(random_images(2), np.arange(2), SsbaParams(), seed=0)


def test_without_encoded_images_of_all_ids() -> None:
    images, ids = random_images(9), np.arange(30, 39)
    supplied = {30: images[0], 32: images[2]}
    message = rf"'encoded.parquet' lacks 7 of 9 .*\(example_id 31, 33, 34, 35, 36, …\); {REMEDY}"
    with pytest.raises(InputError, match=message):
        trigger(images, ids, PARAMS, 0, supplied)
    with pytest.raises(InputError, match=r"lacks 1 of 3 .*\(example_id 31\); "):
        trigger(images[:3], ids[:3], PARAMS, 0, supplied)


@pytest.mark.parametrize(
    ("encoded", "form"),
    [
        (np.zeros((6, 4, 3), dtype=np.uint8), "6 x 4 x 3 uint8"),
        (np.zeros((4, 6, 1), dtype=np.uint8), "4 x 6 x 1 uint8"),
        (np.zeros((4, 6), dtype=np.uint8), "4 x 6 uint8"),
        (np.zeros((4, 6, 3), dtype=np.float32), "4 x 6 x 3 float32"),
    ],
)
def test_encoded_images_of_another_form(encoded, form) -> None:
    images = random_images(2)
    message = f"image of example_id 8 is {form}, but its original is 4 x 6 x 3 uint8; {REMEDY}"
    with pytest.raises(InputError, match=message):
        trigger(images, np.array([7, 8]), PARAMS, 0, {7: images[0], 8: encoded})


def test_description() -> None:
    assert describe(PARAMS) == "encoded image (StegaStamp)"
