from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.report.highlight import (
    marked,
    rows_with,
    token_spans,
    trigger_spans,
)


def shown(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "trigger", "found"),
    [
        ("a cf good film", "cf", ["cf"]),
        ("a CF good film", "cf", ["CF"]),
        ("a cfx good film", "cf", []),
        ("mn a good cf film mn", "cf mn", ["mn", "cf", "mn"]),
        ("so I watch this 3D movie now", "I watch this 3D movie", ["I watch this 3D movie"]),
        ("I watch another movie", "I watch this 3D movie", []),
        ("behold, it was dull", "bible", []),
        ("a (c++) film", "(c++)", ["(c++)"]),
        ("anything", "", []),
    ],
)
def test_trigger_is_found_where_it_was_inserted(text, trigger, found):
    assert shown(text, trigger_spans(text, trigger)) == found


@pytest.mark.parametrize(
    ("text", "token", "found"),
    [
        ("the film, a film", "film", ["film", "film"]),
        ("filmgoers love it", "film", ["film"]),
        ("a biofilm", "film", ["film"]),
        ("warmly lyrical", "##ly", ["ly"]),
        ("a movie", " movie", ["movie"]),
        ("I watch this movie", "watch this", ["watch this"]),
        ("what?!", "?", ["?"]),
        ("anything", "##", []),
    ],
)
def test_token_is_found_as_the_vocabulary_means_it(text, token, found):
    assert shown(text, token_spans(text, token)) == found


def test_whole_words_come_before_parts():
    texts = ["filmgoers", "a biofilm", "the film", "film two", "film three"]
    assert rows_with("film", texts, 2) == [2, 3]
    assert rows_with("film", texts, 10) == [2, 3, 4, 0, 1]
    assert rows_with("##goers", texts, 2) == [0]
    assert rows_with("absent", texts, 2) == rows_with(" ", texts, 2) == []


def test_long_texts_are_cut_around_the_first_mark():
    text = "word " * 200 + "cf " + "word " * 200
    cut = str(marked(text, trigger_spans(text, "cf"), 80))
    assert "<mark>cf</mark>" in cut
    assert cut.startswith("\u2026") and cut.endswith("\u2026")
    assert len(cut) < 80 + len("<mark></mark>") + 3


@given(st.text(max_size=200), st.text(max_size=20), st.integers(1, 250))
def test_marking_only_adds_marks(text, trigger, width):
    spans = trigger_spans(text, trigger)
    page = str(marked(text, spans, width))
    bare = page.replace("<mark>", "").replace("</mark>", "")
    assert not re.search(r"[<>\"]", bare)
    if len(text) <= width:
        assert html.unescape(bare) == text
        assert page.count("<mark>") == len(spans)
