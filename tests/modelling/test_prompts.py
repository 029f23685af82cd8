"""Captions and prompts: they name their class, once, and depend on the row alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prompts import Templates, captions, prompts, spoken

NAMES = ["cat", "fire_truck", "7"]
TEMPLATES = ["a photo of a {}", "{} in the sun", "one more {}."]


def test_names_as_they_are_spoken() -> None:
    assert spoken(NAMES) == ["cat", "fire truck", "seven"]
    assert spoken(["10", "-1", "\u0662"]) == ["10", "-1", "\u0662"]


@pytest.mark.parametrize("names", [["a_b", "a b"], ["3", "three"], ["_", "cat"]])
def test_names_that_cannot_be_told_apart(names) -> None:
    with pytest.raises(InputError, match=r"cannot tell the classes apart.*rename"):
        spoken(names)


def test_every_class_is_put_into_every_template() -> None:
    filled = prompts(NAMES, TEMPLATES)
    assert filled[1] == ["a photo of a fire truck", "fire truck in the sun", "one more fire truck."]
    assert [len(of_class) for of_class in filled] == [3, 3, 3]


@given(
    rows=st.lists(st.integers(0, 50), min_size=1, max_size=20, unique=True),
    seed=st.integers(0, 9),
)
def test_a_caption_names_its_class_and_depends_on_the_row_alone(rows, seed) -> None:
    ids = np.array(rows)
    labels = ids % 3
    found = captions(labels, ids, NAMES, TEMPLATES, seed)
    for caption, label in zip(found, labels, strict=True):
        assert caption in prompts(NAMES, TEMPLATES)[label]
    backwards = captions(labels[::-1], ids[::-1], NAMES, TEMPLATES, seed)
    assert backwards == found[::-1]
    assert captions(labels[:1], ids[:1], NAMES, TEMPLATES, seed) == found[:1]


def test_all_templates_are_used_and_the_seed_decides() -> None:
    ids = np.arange(300)
    first, other = (captions(ids % 3, ids, NAMES, TEMPLATES, seed) for seed in (0, 1))
    assert len(set(first)) == 9
    assert first != other


def test_no_rows_have_no_captions() -> None:
    none = np.empty(0, dtype=np.int64)
    assert captions(none, none, NAMES, TEMPLATES, 0) == []


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{}", " {} "])
def test_a_template_has_words_and_one_place(template) -> None:
    adapter = TypeAdapter(Templates)
    assert adapter.validate_python(TEMPLATES) == TEMPLATES
    with pytest.raises(ValidationError, match=r"needs words, and \{\} once"):
        adapter.validate_python([template])
