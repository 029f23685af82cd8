"""What every unlearner of dual encoders keeps to, with the suspects of every detector of pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.pipelines.detect.nodes import DETECTORS, rank_pairs, score_by_trusted
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS, plan_clean_pairs
from backdoor_pipeline.pipelines.unlearn.suspicion import drawn, presumed_clean
from backdoor_pipeline.recipes import OF_CLEAN_PAIRS, WORK_ON
from backdoor_pipeline.schemas import SUSPECTS
from tiny import DUAL_ENCODERS, make_pairs, tiny_dual_encoder

OF_PAIRS = sorted(DETECTORS.keys() & WORK_ON["pair"])
UNLEARN_PAIRS = sorted(UNLEARNERS.keys() & (WORK_ON["pair"] | OF_CLEAN_PAIRS))
CAPTIONS = ["a film of the city", "the story", "one actor", "my house"]


@pytest.fixture(scope="module")
def parameters(make_parameters):
    changes = {"model.max_length": 16, "local_forgetting.steps": 3, "local_forgetting.keep_rows": 8}
    changes |= {"clip_fine_tune.optimisation.epochs": 1, "cleanclip.optimisation.epochs": 1}
    changes |= {"overfit_similarity.suspect_share": 0.5, "overfit_similarity.least": 1}
    changes |= {"overfit_similarity.consensus": None}  # the trusted encoder knows nothing
    return make_parameters(modality="pair", **changes)


@pytest.fixture(params=DUAL_ENCODERS)
def there(request, parameters):
    """What nodes may read, by its name in the catalog."""
    rows = make_pairs(CAPTIONS, 28, 12)
    train = rows[rows["split"] == "train"].reset_index(drop=True)
    victim, compute = (
        tiny_dual_encoder(request.param),
        ComputeParams(device="cpu", precision="fp32"),
    )
    trusted = tiny_dual_encoder("clip")
    settings = (parameters.model, compute)
    similar = score_by_trusted(train, trusted, *settings)
    ranks = rank_pairs(train, victim, similar, parameters.overfit_similarity, *settings, 0)
    tables = {"poisoned_train": train, "examples": rows, "poison_index": train.head(4)}
    steps = {"trusted_encoder": trusted, "pair_ranks": ranks, "trusted_pairs": rows.head(0)}
    groups = {f"params:{name}": value for name, value in parameters}
    own = {"victim_model": victim, "params:compute": compute, "params:seed": 0}
    return groups | tables | steps | own


@pytest.mark.parametrize("unlearner", UNLEARN_PAIRS)
@pytest.mark.parametrize("detector", OF_PAIRS)
def test_any_unlearner_acts_on_the_suspects_of_any_detector(there, detector, unlearner) -> None:
    victim = there["victim_model"]
    before = {name: tensor.clone() for name, tensor in victim.model.state_dict().items()}
    suspects, record = DETECTORS[detector].function(
        *(there[read] for read in DETECTORS[detector].inputs)
    )
    SUSPECTS.validate(suspects)
    assert suspects["flagged"].any()
    assert record["dev_rows"] == 0
    tables = there | {"suspects": suspects}
    method = UNLEARNERS[unlearner]
    purified, record = method.function(victim, *(tables[name] for name in method.inputs))
    after = victim.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in victim.model.parameters())
    assert record["dev_rows"] == (12 if unlearner in {"clip_fine_tune", "cleanclip"} else 0)
    if unlearner != "local_forgetting" or record["steps"]:
        made = purified.model.state_dict()
        assert not all(torch.equal(before[name], made[name]) for name in before)


def test_pairs_to_keep_are_not_exposed_and_trusted() -> None:
    train = pd.DataFrame({"example_id": [5, 6, 7, 8, 9]})
    suspects = pd.DataFrame(
        {
            **{"kind": "example", "key": [9, 8, 7, 6, 5]},
            "flagged": [True, False, False, False, False],
            "exposed": [True, True, False, False, False],
            "trusted_similarity": [0.1, 0.9, 0.8, 0.2, 0.7],
        }
    )
    assert presumed_clean(train, suspects).tolist() == [True, False, True, False, False]
    told = suspects[["kind", "key", "flagged"]]
    assert presumed_clean(train, told).tolist() == [True, True, True, True, False]


def test_local_forgetting_keeps_what_is_presumed_clean(there) -> None:
    suspects, _ = DETECTORS["overfit_similarity"].function(
        *(there[read] for read in DETECTORS["overfit_similarity"].inputs)
    )
    every = there["params:local_forgetting"].model_copy(update={"keep_rows": 999})
    tables = there | {"suspects": suspects, "params:local_forgetting": every}
    method = UNLEARNERS["local_forgetting"]
    _, record = method.function(there["victim_model"], *(tables[name] for name in method.inputs))
    n_clean = int(presumed_clean(there["poisoned_train"], suspects).sum())
    assert record["keep_rows"] == n_clean < len(suspects) - record["forget_rows"]


def test_few_of_the_pairs_to_keep_are_drawn() -> None:
    rows = np.arange(30) % 3 > 0
    three, again, other = (drawn(rows, 3, seed) for seed in (0, 0, 1))
    assert three.sum() == 3
    assert not (three & ~rows).any()
    assert three.tolist() == again.tolist()
    assert three.tolist() != other.tolist()
    assert drawn(rows, 99, 0).tolist() == rows.tolist()


class TestPlanOfCleanPairs:
    @pytest.fixture
    def plan(self, make_parameters):
        def plan(rows, **changes):
            p = make_parameters(modality="pair", **changes)
            return plan_clean_pairs(rows, p.cleanclip, p.model, 0)

        return plan

    def test_it_says_how_many_there_will_be(self, plan) -> None:
        rows = make_pairs(CAPTIONS, 8, 12)
        assert plan(rows) == {"rows": 12}
        assert plan(rows, **{"cleanclip.rows": 5}) == {"rows": 5}

    def test_none_is_an_error(self, plan) -> None:
        with pytest.raises(InputError, match=r"there are none; raise ingest\.dev_share"):
            plan(make_pairs(CAPTIONS, 8))

    def test_a_padding_that_does_not_fit_is_an_error(self, plan) -> None:
        with pytest.raises(InputError, match="padding is 16, but the images have 16 x 16"):
            plan(make_pairs(CAPTIONS, 8, 12), **{"cleanclip.augmentation.padding": 16})
