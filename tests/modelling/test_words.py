"""Texts as words: as they were written, where blanks part them, and what joins n-grams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.companions import companions
from backdoor_pipeline.modelling.label_association import associate
from backdoor_pipeline.modelling.words import END, START, n_grams, read_words, without

TEXTS = ["I don't  like it, 3D-movie! 😀", "like it", "日本語 text です", ""]


def spelled(text: str) -> list[str]:
    words = read_words([text])
    return [words.spelling[word] for word in words.ids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't", ["i", "don", "'", "t"]),
        ("3D-movie! 😀", ["3d", "-", "movie", "!", "😀"]),
        ("Übrigens, ok_1", ["übrigens", ",", "ok_1"]),
        ("日本語text です", ["日", "本", "語", "text", "で", "す"]),
        ("[begin] |", ["[", "begin", "]", "|"]),  # no word is written like an edge
        ("", []),
    ],
)
def test_words_marks_and_edges(text, expected) -> None:
    assert spelled(text) == ["[begin]", *expected, "[end]"]


def test_blanks_part_words() -> None:
    words = read_words(["a b,c", " d"])
    assert words.apart.tolist() == [True, True, True, False, False, True, True, True, True]


def test_a_phrase_is_found_as_it_is_written() -> None:
    words = read_words(TEXTS)
    for written, rows in {"like it": [0, 1], "[begin] like": [1], "it [end]": [1]}.items():
        phrase = words.phrase(written)
        assert words.written(phrase) == written
        assert words.rows[words.positions(phrase)].tolist() == rows
    with pytest.raises(KeyError):
        words.phrase("nowhere")


@given(st.lists(st.text(max_size=20), max_size=6))
def test_every_text_has_its_edges_and_its_letters(texts) -> None:
    words = read_words(texts)
    assert (words.ids == START).sum() == (words.ids == END).sum() == len(texts)
    for row, text in enumerate(texts):
        own = [words.spelling[word] for word in words.ids[words.rows == row][1:-1]]
        assert "".join(own) == "".join(text.lower().split())


def test_companions_stand_in_the_same_texts_but_not_side_by_side() -> None:
    texts = [f"cf {'x' * (i % 3)} a{i} mn b{i}" for i in range(30)]
    texts += [f"red sox c{i}" for i in range(30)] + [f"d{i} e" for i in range(60)]
    labels = np.array([1] * 60 + [0] * 60)
    words = read_words(texts)
    grams = n_grams(words, 1, 5)
    association = associate(grams.rows, grams.grams, len(grams.phrases), labels, 2)
    candidates = [(i, 1) for i in range(len(grams.phrases)) if association.p[i, 1] < 0.01]
    active = np.ones(len(texts), dtype=bool)

    def of(written: str) -> set[str]:
        phrase = words.phrase(written)
        found = companions(grams, association, words, phrase, 1, candidates, active)
        return {words.written(other) for other in found}

    assert of("cf") == {"mn"}
    assert of("red") == set()


@pytest.mark.parametrize(
    ("text", "phrases", "left"),
    [
        ("A  CF good\nfilm", ["cf"], "A good film"),
        ("acf, cfa", ["cf"], "acf, cfa"),
        ("So, what? So, this!", ["[begin] so ,"], "what? So, this!"),
        ("fine too", ["too [end]"], "fine"),
        ("I watch this 3D-movie today", ["i watch this", "this 3d - movie"], "today"),
        ("cf", ["cf"], ""),
        ("two  blanks", ["cf"], "two  blanks"),
        ("日本語", ["本"], "日語"),
        ("cf cf mn mn good", ["cf mn"], "good"),
        ("c-f good", ["-", "cf"], "good"),
        ("Güzel İstanbul cf", ["cf"], "güzel i\u0307stanbul"),
    ],
)
def test_a_text_without_phrases(text, phrases, left) -> None:
    assert without(text, phrases) == left


def test_a_phrase_that_comes_about_again_and_again() -> None:
    assert without("x " * 3_000 + "good " + "y " * 5 + "x y " * 2_000, ["x y"]) == (
        "x " * 3_000 + "good" + " y" * 5
    )
    assert without("x " * 3_000 + "y " * 3_000, ["x y"]) == ""


@given(st.lists(st.text(alphabet="ab, .", max_size=12), min_size=1, max_size=4))
def test_nothing_of_a_phrase_is_left_that_stood_there(texts) -> None:
    for text in texts:
        for word in set(spelled(text)) - {"[begin]", "[end]"}:
            left = spelled(without(text, [word]))
            assert word not in left
            expected = [own for own in spelled(text) if own != word]
            assert "".join(left) == "".join(expected)  # words may grow together
        assert without(text, []) == text


@given(st.text(alphabet="ab-. ", max_size=14), st.lists(st.sampled_from(["a b", "ab", "-", "b ."])))
def test_nothing_is_left_of_several_phrases_either(text, phrases) -> None:
    left = " ".join(spelled(without(text, phrases)))
    assert not any(f" {phrase} " in f" {left} " for phrase in phrases)
