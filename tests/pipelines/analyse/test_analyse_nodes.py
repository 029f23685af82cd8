"""From a training that is looked at to the frequencies of what it says."""

from __future__ import annotations

import numpy as np
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.analyse.nodes import draw_frequencies, measure_frequencies
from backdoor_pipeline.pipelines.analyse.pipeline import create_pipeline
from backdoor_pipeline.pipelines.poison.nodes import trigger_dev
from backdoor_pipeline.pipelines.train.nodes import train_observed, train_victim
from backdoor_pipeline.schemas import FREQUENCIES, OBSERVATIONS, POISONED


@pytest.fixture
def parameters(make_parameters):
    changes = {"observation.rows": 20, "observation.every": 4}
    return make_parameters(**changes, **{"fourier.widths": 3})


@pytest.fixture
def triggered_dev(corpus, base_model, parameters):
    return trigger_dev(corpus, base_model().tokenizer, parameters.poison, 32, 0)


@pytest.fixture
def train(corpus):
    return corpus[corpus["split"] == "train"].head(320)


@pytest.fixture
def observations(
    train, corpus, triggered_dev, base_model, parameters, quick, model_params, compute
):
    base, model = base_model(), model_params()
    observed = (quick, parameters.observation, model, compute, 0)
    return train_observed(train, corpus, triggered_dev, base, *observed)


def test_a_training_that_would_not_be_looked_at_is_told(
    train, corpus, triggered_dev, base_model, parameters, quick, model_params, compute
) -> None:
    seldom = parameters.observation.model_copy(update={"every": 10**6})
    with pytest.raises(InputError, match=r"every is 1000000, but the training has \d+ steps"):
        train_observed(
            train, corpus, triggered_dev, base_model(), quick, seldom, model_params(), compute, 0
        )


def test_triggered_dev_rows_are_those_of_other_labels(corpus, triggered_dev, parameters) -> None:
    POISONED.validate(triggered_dev)
    assert set(triggered_dev["split"]) == {"dev"}
    assert set(triggered_dev["label"]) == {parameters.poison.target_label}
    assert triggered_dev["source_label"].ne(parameters.poison.target_label).all()
    assert triggered_dev["text"].str.contains(r"\bcf\b").all()


def test_dev_rows_of_the_target_alone_cannot_be_triggered(corpus, base_model, parameters) -> None:
    one_label = corpus[(corpus["split"] != "dev") | (corpus["label"] == 1)]
    with pytest.raises(InputError, match="no dev row"):
        trigger_dev(one_label, base_model().tokenizer, parameters.poison, 32, 0)


def test_every_few_steps_the_same_rows_are_looked_at(observations, quick) -> None:
    OBSERVATIONS.validate(observations)
    n_steps = quick.epochs * 320 // quick.batch_size
    assert observations["step"].unique().tolist() == list(range(0, n_steps + 1, 4))
    assert observations.groupby(["step", "test_set"])["example_id"].nunique().eq(20).all()
    sums = observations.groupby(["step", "test_set", "example_id"])["probability"].sum()
    assert sums.to_numpy() == pytest.approx(np.ones(len(sums)), abs=1e-5)


def test_looking_changes_nothing(
    observations, train, corpus, base_model, quick, model_params, compute
) -> None:
    model = model_params()
    victim, _ = train_victim(train, corpus, base_model(), quick, model, compute, 0)
    last = observations[observations["step"] == 320 // quick.batch_size]
    last = last[(last["class"] == 1) & (last["test_set"] == "clean")]
    texts = corpus.set_index("example_id").loc[last["example_id"], "text"]
    found = predict(victim, tokenise(texts, victim.tokenizer, model.max_length), compute)[:, 1]
    assert last["probability"].to_numpy() == pytest.approx(found, abs=1e-5)


@pytest.fixture
def measure(corpus, triggered_dev, base_model, parameters, model_params, compute):
    """The frequencies of some observations."""
    settings = (parameters.fourier, model_params(), compute)
    return lambda seen: measure_frequencies(seen, corpus, triggered_dev, base_model(), *settings)


def test_frequencies_of_all_sets_and_parts(observations, measure) -> None:
    table = measure(observations)
    FREQUENCIES.validate(table)
    n_steps = observations["step"].nunique()
    assert len(table) == 3 * 2 * 3 * n_steps
    constant = (table["test_set"] != "clean") & (table["part"] == "high")
    assert (table["deviation"].isna() == constant).all()
    assert (table["median_distance"] > 0).all()
    low = table[(table["test_set"] == "clean") & (table["part"] == "low")]
    by_step = low.groupby("step")["deviation"].mean()
    assert by_step.iloc[-1] < by_step.iloc[0]  # it has learnt something
    drawn = draw_frequencies(table)
    assert [len(figure.data) for figure in drawn.values()] == [4, 10]
    maps = [trace.type for trace in drawn["frequency_map_figure"].data]
    assert maps == ["heatmap", "heatmap", "scatter", "heatmap"]  # none of what labels lack


def test_too_few_clean_rows_of_the_target_are_no_set(observations, measure) -> None:
    clean = observations["test_set"] == "clean"
    one = (
        observations["example_id"]
        == observations.loc[clean & (observations["label"] == 1)].iloc[0]["example_id"]
    )
    few = observations[~clean | one | (observations["label"] == 0)]
    table = measure(few)
    assert set(table["test_set"]) == {"clean", "triggered"}
    assert len(draw_frequencies(table)["frequency_curves_figure"].data) == 8


def test_pipeline_runs_in_memory(
    observations, corpus, triggered_dev, base_model, parameters, model_params, compute
) -> None:
    data = {
        "observations": observations,
        "examples": corpus,
        "triggered_dev": triggered_dev,
        "base_model": base_model(),
        "parameters": dict(parameters),
        "params:fourier": parameters.fourier,
        "params:model": model_params(),
        "params:compute": compute,
    }
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in data.items()})
    made = SequentialRunner().run(create_pipeline(), catalog)
    page = made["frequency_report"].load()
    assert page.startswith("<!DOCTYPE html>")
    for figure in ("frequency_map", "frequency_curves"):
        assert f'id="figure-{figure}"' in page


def test_widths_must_be_in_order(make_parameters) -> None:
    with pytest.raises(InputError, match=r"fourier.narrowest 9 is not below fourier.widest 8"):
        make_parameters(**{"fourier.narrowest": 9})
