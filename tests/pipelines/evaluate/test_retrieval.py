"""Retrieval against a loop, with ties, captions that many images share, and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.evaluate import retrieval
from backdoor_pipeline.pipelines.evaluate.retrieval import image_to_text, text_to_image


@st.composite
def spaces(draw):
    """Images and texts of small whole numbers, so that ties are common; every text has an image."""
    n_texts = draw(st.integers(1, 4))
    more = draw(st.lists(st.integers(0, n_texts - 1), max_size=5))
    captions = np.array([*range(n_texts), *more])
    number = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    images = draw(st.lists(number, min_size=len(captions), max_size=len(captions)))
    texts = draw(st.lists(number, min_size=n_texts, max_size=n_texts))
    return np.array(images, float), np.array(texts, float), captions


@given(space=spaces(), k=st.integers(1, 5), block=st.integers(1, 4))
def test_both_equal_a_loop(space, k, block) -> None:
    images, texts, captions = space
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK", block)
        to_text, to_image = (f(images, texts, captions, k) for f in (image_to_text, text_to_image))
    hits = []
    for image, caption in zip(images, captions, strict=True):
        others = [t for t in range(len(texts)) if t != caption]
        hits.append(sum(image @ texts[t] >= image @ texts[caption] for t in others) < k)
    assert to_text.value == pytest.approx(np.mean(hits))
    assert to_text.n == len(images)
    hits = []
    for number, text in enumerate(texts):
        best = max(text @ images[i] for i in np.flatnonzero(captions == number))
        others = np.flatnonzero(captions != number)
        hits.append(sum(text @ images[i] >= best for i in others) < k)
    assert to_image.value == pytest.approx(np.mean(hits))
    assert to_image.n == len(texts)


def test_a_perfect_space_finds_all_and_a_collapsed_one_nothing() -> None:
    axes, captions = np.eye(4), np.arange(4)
    same = np.ones((4, 4)) / 2
    for function in (image_to_text, text_to_image):
        assert function(axes, axes, captions, 1).value == 1
        assert function(same, same, captions, 1).value == 0
        assert function(same, same, captions, 4).value == 1


def test_nothing_to_look_for() -> None:
    none = np.empty((0, 3))
    for function in (image_to_text, text_to_image):
        with pytest.raises(ValueError, match="undefined"):
            function(none, none, np.empty(0, dtype=int), 1)
