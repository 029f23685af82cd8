"""Triggers and tokens marked where they stand in a text; everything else escaped."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[int, int]
CONTINUATION = "##"
ELLIPSIS = "\u2026"


def trigger_spans(text: str, trigger: str) -> list[Span]:
    """Where ``trigger`` stands in ``text``: as one phrase, or else each of its words.

    Nothing where not all its words are there: a style or syntax trigger is a name, no insertion.
    """
    words = trigger.split()
    if not words:
        return []
    phrase = _spans(text, _whole(r"\s+".join(map(re.escape, words))))
    if phrase:
        return phrase
    by_word = [_spans(text, _whole(re.escape(word))) for word in dict.fromkeys(words)]
    return sorted(chain(*by_word)) if all(by_word) else []


def token_spans(text: str, token: str) -> list[Span]:
    """Where a token (or a phrase of several) stands in ``text``, by the first way that fits."""
    return next((spans for p in _token_patterns(token) if (spans := _spans(text, p))), [])


def rows_with(token: str, texts: Sequence[str], n: int) -> list[int]:
    """At most ``n`` positions of texts that hold the token, whole words before parts of words.

    Args:
        token: As the vocabulary writes it, or several joined by blanks.
        texts: Lower-cased.
        n: How many are enough.
    """
    patterns = _token_patterns(token)
    if not patterns:
        return []
    rarest = max(_letters(token).lower().split(), key=len)  # a cheap test before the expression
    found: list[list[int]] = [[] for _ in patterns]
    for row, text in enumerate(texts):
        if rarest in text:
            for rows, pattern in zip(found, patterns, strict=True):
                if pattern.search(text):
                    rows.append(row)
                    break
            if len(found[0]) == n:
                break
    return list(chain(*found))[:n]


def marked(text: str, spans: Sequence[Span], width: int) -> Markup:
    """``text`` as HTML with ``spans`` in <mark>, cut to about ``width`` characters around them."""
    first, last = _window(text, spans, width)
    html, at = Markup(ELLIPSIS if first else ""), first
    for start, end in spans:
        start, end = max(start, at), min(end, last)  # noqa: PLW2901
        if start < end:
            html += escape(text[at:start]) + Markup("<mark>{}</mark>").format(text[start:end])
            at = end
    return html + escape(text[at:last]) + (ELLIPSIS if last < len(text) else "")


def _window(text: str, spans: Sequence[Span], width: int) -> Span:
    if len(text) <= width:
        return 0, len(text)
    start, end = spans[0] if spans else (0, 0)
    first = max(0, min((start + end - width) // 2, len(text) - width))
    last = first + width
    if first:  # begin and end between words, where one is near
        first = text.find(" ", first, start) + 1 or first
    if last < len(text):
        last = max(text.rfind(" ", end, last), 0) or last
    return first, last


def _whole(expression: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S){expression}(?!\S)", re.IGNORECASE)


def _letters(token: str) -> str:
    return token.removeprefix(CONTINUATION).strip()


def _token_patterns(token: str) -> list[re.Pattern[str]]:
    """Whole word, beginning of a word, anywhere; a continuation piece only inside a word."""
    letters = r"\s*".join(map(re.escape, _letters(token).split()))
    if not letters:
        return []
    if token.startswith(CONTINUATION):
        expressions = [rf"(?<=\w){letters}", letters]
    else:
        expressions = [rf"(?<!\w){letters}(?!\w)", rf"(?<!\w){letters}", letters]
    return [re.compile(expression, re.IGNORECASE) for expression in expressions]


def _spans(text: str, pattern: re.Pattern[str]) -> list[Span]:
    return [match.span() for match in pattern.finditer(text)]
