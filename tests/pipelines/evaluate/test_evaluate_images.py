"""The metrics of a cell of images, whose suspects are examples."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.pipelines.detect.nodes import tell_discovered_share
from backdoor_pipeline.pipelines.evaluate.nodes import (
    evaluate,
    predict_purified,
    predict_reference,
    predict_victim,
)
from backdoor_pipeline.pipelines.evaluate.pipeline import create_pipeline
from backdoor_pipeline.pipelines.poison.nodes import poison_images
from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import PREDICTIONS
from tiny import make_images


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    return make_images(n_train=40, n_dev=8, n_test=24)


@pytest.fixture(scope="module")
def parameters(make_parameters):
    return make_parameters(**{"modality": "image", "poison.rate": 0.25})


@pytest.fixture(scope="module")
def poison(images, parameters):
    return poison_images(images, None, parameters.poison, 0)


@pytest.fixture(scope="module")
def bundle(images) -> ImageBundle:
    form = measured_format(decode(images["image"].tolist(), "images"))
    return new_image_classifier("resnet9", 4, form, 0.125, 0)


@pytest.fixture(scope="module")
def predictions(images, poison, bundle, parameters, compute) -> pd.DataFrame:
    tests = (images, poison["triggered_test"], parameters.model, compute)
    undefended = predict_reference(bundle, *tests), predict_victim(bundle, *tests)
    return predict_purified(*undefended, bundle, *tests)


def test_predictions_are_of_the_clean_and_the_triggered_rows(predictions, images, poison) -> None:
    PREDICTIONS.validate(predictions)
    n_clean, n_triggered = (images["split"] == "test").sum(), len(poison["triggered_test"])
    counts = predictions.groupby(["model", "test_set"]).size().unstack()
    assert (counts["clean"] == n_clean).all()
    assert (counts["triggered"] == n_triggered).all()
    triggered = predictions[predictions["test_set"] == "triggered"]
    assert 0 not in set(triggered["label"])  # the true labels, none of them the target's


def test_metrics_tell_of_rows_not_tokens(predictions, images, poison, parameters) -> None:
    told = (poison["poison_index"], poison["poisoned_train"], parameters.discovered_share, 0)
    suspects, record = tell_discovered_share(*told)
    metrics = evaluate(
        predictions=predictions,
        triggered_test=poison["triggered_test"],
        poisoned_train=poison["poisoned_train"],
        examples=images,
        costs={},
        params=parameters.evaluation,
        own_data=None,
        suspects=suspects,
        discovered_share_record=record,
        trigger_search_record={"dev_rows": 0},
    )
    assert json.loads(json.dumps(metrics)) == metrics
    detector = metrics["detector"]
    assert (detector["precision"], detector["recall"]) == (1.0, 0.5)
    assert (detector["flagged"], detector["false_alarms"]) == (5, 0)
    assert detector["trigger_tokens"] is None
    assert metrics["cost"]["clean_rows"] == 0
    assert not metrics["valid"]
    assert metrics["comparison"]["attack_success_change"] == 0
    triggered = predictions.query("model == 'victim' and test_set == 'triggered'")
    success = np.mean(triggered["predicted"] == 0)
    assert metrics["victim"]["attack_success_rate"] == pytest.approx(success)
    assert metrics["victim"]["robust_accuracy_n"] == len(triggered)


CLEAN, TRIGGERED = [0, 1, 2, 2], [1, 2, 1, 2, 0]  # true labels; the target label is 0


@pytest.fixture
def compared(images, poison, parameters):
    """The comparison of victim and purified model by what they say of ``TRIGGERED`` rows."""

    def answers(model: str, test_set: str, labels: list[int], predicted: list[int]):
        ids = range(len(labels))
        table = pd.DataFrame({"example_id": ids, "label": labels, "predicted": predicted})
        return table.assign(model=model, test_set=test_set)

    def compare(victim: list[int], purified: list[int]) -> dict[str, float]:
        said = {"reference": TRIGGERED, "victim": victim, "purified": purified}
        tables = [answers(name, "triggered", TRIGGERED, said[name]) for name in said]
        tables += [answers(name, "clean", CLEAN, [0, 1, 2, 1]) for name in said]
        return evaluate(
            predictions=pd.concat(tables, ignore_index=True),
            triggered_test=poison["triggered_test"],
            poisoned_train=poison["poisoned_train"],
            examples=images,
            costs={},
            params=parameters.evaluation,
            own_data=None,
        )["comparison"]

    return compare


def test_healed_are_rows_of_other_labels_that_get_their_own_again(compared) -> None:
    # by hand: the victim has CA 3/4 and RA 1/4, the purified model RA 2/4
    comparison = compared([0, 0, 0, 2, 0], [1, 2, 0, 1, 0])
    assert comparison["healed"] == pytest.approx((2 / 4 - 1 / 4) / (3 / 4 - 1 / 4))
    assert comparison["healed_n"] == 4
    assert comparison["healed_low"] < 0 < comparison["healed_high"]
    assert compared([0, 0, 0, 2, 0], [0, 0, 0, 2, 1])["healed"] == 0


def test_where_the_trigger_spoils_nothing_what_healed_is_not_known(compared) -> None:
    for victim in (TRIGGERED, [1, 2, 1, 0, 0]):  # RA above and equal to CA
        comparison = compared(victim, TRIGGERED)
        assert comparison["healed"] is None
        assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


@pytest.mark.parametrize(("recipe", "reads"), [("potion", False), ("potion_text", True)])
def test_wiring_needs_a_tokenizer_for_texts_alone(recipe, reads) -> None:
    pipeline = create_pipeline(RECIPES[recipe])
    assert ("base_tokenizer" in pipeline.inputs()) == reads
    assert {"discovered_share_record", "trigger_search_record"} <= pipeline.inputs()
