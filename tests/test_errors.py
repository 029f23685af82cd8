"""What an error says about a name that nobody knows."""

from __future__ import annotations

import pytest

from backdoor_pipeline.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sead", "; did you mean 'seed'?"),
        ("TEXT", "; did you mean 'Text'?"),
        ("zzz", "; there are: Text, seed"),
    ],
)
def test_the_nearest_known_name_or_else_all(name, said) -> None:
    assert did_you_mean(name, {"seed", "Text"}) == said
