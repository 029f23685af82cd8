"""The node of the detector that is told a part of the poison, on texts and on images."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.detect.nodes import (
    DETECTORS,
    plan_discovered_share,
    tell_discovered_share,
)
from backdoor_pipeline.pipelines.detect.pipeline import create_pipeline
from backdoor_pipeline.recipes import Recipe
from backdoor_pipeline.schemas import SUSPECTS
from tiny import make_corpus, make_images

NOTHING = {"share": None, "rows": None, "ids": None}


@pytest.fixture(params=["text", "image"])
def train(request):
    """Training rows, of which every fifth is poisoned."""
    make = make_corpus if request.param == "text" else make_images
    rows = make(n_train=50, n_dev=0, n_test=0)
    return rows.assign(is_poisoned=rows.index % 5 == 0, source_label=0, trigger="told")


def tell(train, **told):
    index = train[train["is_poisoned"]][["example_id", "split", "label", "trigger"]]
    seen = train[["example_id"]]  # of the training rows it looks at nothing else
    return tell_discovered_share(index, seen, DiscoveredShareParams(**NOTHING | told), 0)


def test_suspects_are_told_poison(train) -> None:
    suspects, record = tell(train, share=0.3)
    assert len(SUSPECTS.validate(suspects)) == 3
    assert set(suspects["key"]) < set(train.loc[train["is_poisoned"], "example_id"])
    assert record == {"dev_rows": 0, "told_rows": 3}


def test_a_list_of_the_users_own_may_hold_clean_rows(train) -> None:
    suspects, record = tell(train.assign(is_poisoned=False), ids=[4, 1])
    assert suspects["key"].tolist() == [1, 4]
    assert record["told_rows"] == 2


def test_wiring_reads_neither_model_nor_dev_rows() -> None:
    pipeline = create_pipeline(Recipe("discovered_share", ("trigger_search",), modality="image"))
    settings = {"params:discovered_share", "params:seed"}
    (detection,) = pipeline.only_nodes("detect_discovered_share").nodes
    assert set(detection.inputs) == {"poison_index", "poisoned_train"} | settings
    assert set(detection.outputs) == {"discovered_share_suspects", "discovered_share_record"}
    assert detection.func is DETECTORS["discovered_share"].function


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 3}, "rows is 3, but 2 rows are poisoned"),
        ({"ids": [4, 40]}, "[40], which are no training rows"),
        ({"ids": list(range(10))}, "all 10 training rows"),
    ],
)
def test_what_cannot_be_told_is_planned_as_it_is_detected(given, said) -> None:
    params = DiscoveredShareParams(**NOTHING | {"share": 0.5} | given)
    splits = ["train"] * 10 + ["test"] * 5
    examples = pd.DataFrame({"example_id": np.arange(15), "split": splits})
    poison = SimpleNamespace(rate=0.2)
    with pytest.raises(InputError, match=re.escape(said)):
        plan_discovered_share(examples, poison, params, seed=0)
    index = examples.head(2)
    with pytest.raises(InputError, match=re.escape(said)):
        tell_discovered_share(index, examples.head(10), params, seed=0)
    half = params.model_copy(update={"rows": None, "ids": None})
    assert plan_discovered_share(examples, poison, half, seed=0) == {"told_rows": 1}
