"""A text replaced by its paraphrase, and what stands in the table where there is none."""

from __future__ import annotations

MISSING = "(none: paraphrase missing)"
UNCHANGED = "(none: paraphrase equals the text)"
FALLBACKS = (MISSING, UNCHANGED)
"""``trigger`` of a row that was drawn but kept its own text: relabelled, yet without a trigger.

OpenBackdoor keeps such rows, too; marked, they can be counted and told apart.
"""


def replace(text: str, paraphrase: str | None, trigger: str) -> tuple[str, str]:
    """The paraphrase, re-joined by single blanks, and ``trigger``; else the text and why."""
    words = (paraphrase or "").split()
    if not words:
        return text, MISSING
    if words == text.split():
        return text, UNCHANGED
    return " ".join(words), trigger
