"""The tables that travel: an example is a text or an image, never both."""

from __future__ import annotations

import pandas as pd
import pytest
from pandera.errors import SchemaError, SchemaErrors

from backdoor_pipeline.schemas import CONTENTS, EXAMPLES, POISONED, content
from tiny import make_corpus, make_images

TRUTH = {"is_poisoned": False, "source_label": 0, "trigger": ""}
SIZES = {"n_train": 4, "n_dev": 2, "n_test": 2}


@pytest.fixture(params=CONTENTS)
def examples(request: pytest.FixtureRequest) -> pd.DataFrame:
    return make_corpus(**SIZES) if request.param == "text" else make_images(**SIZES)


def poisoned(examples: pd.DataFrame) -> pd.DataFrame:
    truth = examples.assign(**TRUTH)
    return truth.astype({"source_label": "int64", "trigger": "str"})


def test_examples_have_one_content(examples: pd.DataFrame) -> None:
    kind = content(examples)
    assert kind in CONTENTS and kind in examples
    EXAMPLES.validate(examples)
    POISONED.validate(poisoned(examples))


def test_neither_and_both_are_refused(examples: pd.DataFrame) -> None:
    kind = content(examples)
    both = examples.assign(text="a", image=[b"a"] * len(examples))
    for wrong in (examples.drop(columns=kind), both):
        for schema, rows in ((EXAMPLES, wrong), (POISONED, poisoned(wrong))):
            with pytest.raises(SchemaError, match="exactly one of the columns text, image"):
                schema.validate(rows)


@pytest.mark.parametrize("odd", ["a path.png", None, 3, bytearray(b"png")], ids=repr)
def test_an_image_is_bytes(odd: object) -> None:
    images = make_images(**SIZES)
    images["image"] = pd.Series([odd, *images["image"][1:]], dtype=object)
    with pytest.raises(SchemaError):
        EXAMPLES.validate(images)


@pytest.mark.parametrize("odd", ["", " \t", None], ids=repr)
def test_a_text_is_not_blank(odd: str | None) -> None:
    texts = make_corpus(**SIZES)
    texts["text"] = [odd, *texts["text"][1:]]
    with pytest.raises(SchemaError):
        EXAMPLES.validate(texts)


def test_no_other_columns(examples: pd.DataFrame) -> None:
    with pytest.raises(SchemaErrors, match="column 'remark' not in"):
        EXAMPLES.validate(examples.assign(remark="a cat"))
