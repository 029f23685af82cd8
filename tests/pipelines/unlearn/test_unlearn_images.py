"""The nodes of the stage on images: what they read, what they leave alone, what they remove."""

from __future__ import annotations

import copy
import json
from typing import Any

import pandas as pd
import pytest
import torch

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import mnist_digits
from backdoor_pipeline.datasets.sources.files import MISSING
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.inputs import read_by
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect.nodes import tell_discovered_share
from backdoor_pipeline.pipelines.ingest.nodes import ingest
from backdoor_pipeline.pipelines.poison.nodes import poison_images
from backdoor_pipeline.pipelines.train.nodes import train_image_victim
from backdoor_pipeline.pipelines.unlearn import nodes
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS, distil, retrain, search_trigger
from backdoor_pipeline.pipelines.unlearn.pipeline import create_pipeline
from backdoor_pipeline.recipes import RECIPES, Recipe
from backdoor_pipeline.schemas import GROUND_TRUTH
from tiny import make_images

OF_IMAGES = sorted({u for r in RECIPES.values() if r.modality == "image" for u in r.unlearners})
FROM_BASE = [name for name in OF_IMAGES if UNLEARNERS[name].from_base]
SHORT = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def parameters(make_parameters) -> Parameters:
    optimised = ("training", *(f"{name}.optimisation" for name in FROM_BASE))
    quick = {f"{group}.{name}": value for group in optimised for name, value in SHORT.items()}
    return make_parameters(
        **quick
        | {"modality": "image", "model.width": 0.125, "poison.rate": 0.1, "training.epochs": 4}
        | {"trigger_search.importances.rows": 100}
    )


@pytest.fixture(scope="module")
def examples():
    return make_images(n_train=300, n_dev=20, n_test=80)


@pytest.fixture(scope="module")
def poison(examples, parameters) -> dict[str, Any]:
    return poison_images(examples, None, parameters.poison, 0)


@pytest.fixture(scope="module")
def victim(poison, examples, parameters, compute):
    """It has learnt the patch. Only look at it."""
    settings = (parameters.training, parameters.model, compute, 0)
    return train_image_victim(poison["poisoned_train"], examples, *settings)[0]


@pytest.fixture(scope="module")
def there(poison, parameters, compute) -> dict[str, Any]:
    """What the nodes may read, by its name in the catalog; no ground truth."""
    told = (poison["poison_index"], poison["poisoned_train"], parameters.discovered_share, 0)
    groups = {f"params:{name}": getattr(parameters, name) for name in Parameters.model_fields}
    tables = {
        "poisoned_train": poison["poisoned_train"].drop(columns=list(GROUND_TRUTH)),
        "suspects": tell_discovered_share(*told)[0],
    }
    return groups | {"params:compute": compute} | tables


@pytest.fixture(scope="module")
def unlearn(victim, there):
    """Purified model and record of an unlearner; tables may be changed."""

    def unlearn(name: str, **changes: Any):
        tables = there | changes
        return UNLEARNERS[name].function(
            victim, *(tables[read] for read in UNLEARNERS[name].inputs)
        )

    return unlearn


def weights(bundle) -> dict[str, torch.Tensor]:
    return copy.deepcopy(bundle.model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_copy_is_changed_the_same_way_for_a_seed(name, unlearn, victim, there) -> None:
    before = weights(victim)
    (purified, record), (again, again_record) = unlearn(name), unlearn(name)
    assert same(weights(victim), before)
    assert not same(weights(purified), before)
    assert same(weights(purified), weights(again))
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(again_record))
    assert purified.image_format == victim.image_format
    assert not purified.model.training
    assert record["forget_rows"] == there["suspects"]["flagged"].sum() > 0
    assert record["dev_rows"] == 0


@pytest.mark.parametrize("name", OF_IMAGES)
def test_without_suspects_the_model_is_passed_on(name, unlearn, victim, there) -> None:
    purified, record = unlearn(name, suspects=there["suspects"].assign(flagged=False))
    assert purified is victim
    assert (record["forget_rows"], record["dev_rows"]) == (0, 0)


def test_the_search_removes_the_trigger(unlearn, there, victim, poison, examples, compute) -> None:
    params = there["params:trigger_search"].model_copy(update={"rho": 0.05})
    purified, record = unlearn("trigger_search", **{"params:trigger_search": params})
    test, triggered = examples[examples["split"] == "test"], poison["triggered_test"]
    accuracy, success = {}, {}
    for name, bundle in (("victim", victim), ("purified", purified)):
        guess = predict(bundle, read_by(bundle, test, 0), compute).argmax(axis=1)
        accuracy[name] = (guess == test["label"]).mean()
        guess = predict(bundle, read_by(bundle, triggered, 0), compute).argmax(axis=1)
        success[name] = (guess == 0).mean()
    assert success["victim"] > 0.9
    assert success["purified"] < 0.3
    assert accuracy["victim"] - accuracy["purified"] < 0.1
    assert record["converged"]
    assert len(record["search"]["forget_probability"]["step"]) == record["steps"] + 1


@pytest.fixture(scope="module")
def digits(make_parameters) -> tuple[Parameters, pd.DataFrame]:
    """Settings, and the packaged digits, halved in size: quickly learnt."""
    short = {
        f"{group}.{name}": value
        for group in ("training", "retraining.optimisation")
        for name, value in {"epochs": 3, "batch_size": 32}.items()
    }
    parameters = make_parameters(
        **short
        | {"modality": "image", "model.width": 0.25, "ingest.image_size": 14}
        | {"discovered_share.share": None, "discovered_share.rows": 50}
    )
    if mnist_digits.digest(parameters.source) == MISSING:
        pytest.skip("the package that carries the digits is not installed: `make install`")
    return parameters, ingest(sources.read(parameters.source), parameters.ingest, 0)["examples"]


@pytest.mark.slow
def test_potion_13_11_the_search_heals_and_training_afresh_does_not(digits, compute) -> None:
    """Of digits: to be right about 60 % of unseen photographs takes more time than a test has."""
    parameters, examples = digits
    rate = 250 / (examples["split"] == "train").sum()
    poison = poison_images(examples, None, parameters.poison.model_copy(update={"rate": rate}), 0)
    train, test = poison["poisoned_train"], examples[examples["split"] == "test"]
    told = (poison["poison_index"], train, parameters.discovered_share, 0)
    suspects, drawn = tell_discovered_share(*told)[0], train[train["is_poisoned"]]
    assert (len(drawn), len(suspects)) == (250, 50)

    def rates(bundle) -> tuple[float, float, float]:
        """Clean accuracy, healed share of the poison, attack success."""
        judges = ((test, "label"), (drawn, "source_label"), (poison["triggered_test"], "label"))
        return tuple(
            (predict(bundle, read_by(bundle, rows, 0), compute).argmax(axis=1) == rows[true]).mean()
            for rows, true in judges
        )

    settings = (parameters.model, compute, 0)
    victim, _ = train_image_victim(train, examples, parameters.training, *settings)
    given = (victim, train.drop(columns=list(GROUND_TRUTH)), suspects)
    published = parameters.trigger_search.model_copy(
        update={
            "importances": parameters.ssd.importances.model_copy(update={"quantity": "xlf"}),
            **{"lowering": False, "balanced": False, "criterion": "accuracy", "rho": 0.2},
            **{"max_loss": None, "max_label_loss": None, "start": "published", "growth": 1.1},
            "repair": None,
        }
    )
    searched = [
        search_trigger(*given, params, *settings)[0]
        for params in (parameters.trigger_search, published)
    ]
    retrained, _ = retrain(*given, parameters.retraining, *settings)
    clean, _, success = rates(victim)
    assert success > 0.9
    for bundle in searched:
        clean_after, healed, _ = rates(bundle)
        assert healed > 0.6
        assert clean - clean_after < 0.1
    *_, success = rates(retrained)
    assert success > 0.5


@pytest.mark.parametrize(("node", "method"), [(retrain, "retraining"), (distil, "distillation")])
class TestFreshWeights:
    @pytest.fixture
    def fresh(self, node, method, there, monkeypatch):
        """What the node lets the method start from."""
        given: dict[str, Any] = {}

        def unlearn(bundle, forget, retain, params, compute, seed, fresh):
            given["fresh"] = fresh
            return bundle, {}

        monkeypatch.setattr(getattr(nodes, method), "unlearn", unlearn)

        def fresh(bundle, rows, model, base_model=None):
            suspects = there["suspects"].head(0)
            node(bundle, rows, suspects, None, model, there["params:compute"], 3, base_model)
            return given["fresh"]()

        return fresh

    def test_of_images_are_those_of_the_network(self, fresh, victim, there) -> None:
        made = fresh(victim, there["poisoned_train"], there["params:model"])
        expected = new_image_classifier("resnet9", 4, victim.image_format, 0.125, 3)
        assert made.image_format == victim.image_format
        assert same(weights(made), weights(expected))

    def test_of_texts_are_those_of_the_encoder(
        self, fresh, corpus, base_model, model_params
    ) -> None:
        bundle = new_classifier(base_model(), 3, seed=0)
        made = fresh(bundle, corpus.head(9), model_params(), base_model())
        assert same(weights(made), weights(new_classifier(base_model(), 3, seed=3)))
        with pytest.raises(ValueError, match="starts from base_model"):
            fresh(bundle, corpus.head(9), model_params())


@pytest.mark.parametrize("name", OF_IMAGES)
def test_wiring_has_an_encoder_for_texts_alone(name) -> None:
    images, texts = (
        create_pipeline(Recipe("discovered_share", (name,), modality=modality))
        for modality in ("image", "text")
    )
    read = {i for i in images.inputs() if not i.startswith("params:")}
    assert read == {"victim_model", "poisoned_train", "suspects"}
    assert texts.inputs() - images.inputs() == ({"base_model"} if name in FROM_BASE else set())
    assert images.outputs() == texts.outputs() == {"purified_model", f"{name}_record"}


@pytest.mark.parametrize("name", ["retraining.last_layers", "trigger_search.repair.last_layers"])
def test_more_last_layers_than_the_network_has_are_told_at_once(
    name, examples, make_parameters
) -> None:
    def plan(k):
        p = make_parameters(**{"modality": "image", "model.width": 0.125, name: k})
        params = getattr(p, name.partition(".")[0])
        return nodes.plan_last_layers(examples, params, p.model, 0)

    assert plan(1) == {"modules": 1}
    with pytest.raises(InputError, match="last_layers is 10, but the model has 9 layers"):
        plan(10)
