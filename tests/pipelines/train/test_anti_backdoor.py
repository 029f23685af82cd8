"""Anti-backdoor learning: the two losses, what is isolated, and what each stage is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.training import labelled
from backdoor_pipeline.pipelines.train import anti_backdoor
from backdoor_pipeline.pipelines.train.anti_backdoor import (
    Ascent,
    flooding,
    lga,
    lowest,
    row_losses,
)
from tiny import MAX_LENGTH, make_corpus

LEVEL = 0.5
finite = st.floats(0, 10, width=32)


def gradient(function, loss: float) -> float:
    at = torch.tensor(loss, requires_grad=True)
    function(at, LEVEL).backward()
    return float(at.grad)


@pytest.mark.parametrize("function", [lga, flooding])
def test_abl_7_the_gradient_flips_at_the_level(function) -> None:
    below, above = np.nextafter(np.float32(LEVEL), np.float32([0, 1]))
    assert gradient(function, float(below)) == -1
    assert gradient(function, LEVEL) == 0
    assert gradient(function, float(above)) == 1


@given(loss=finite, level=st.floats(0.125, 2, width=32))
def test_abl_7_flooding_is_never_below_its_level(loss, level) -> None:
    value = float(flooding(torch.tensor(loss), level))
    assert value >= np.float32(level)
    assert value == pytest.approx(max(loss, 2 * level - loss), abs=1e-5)


@given(loss=finite)
def test_lga_keeps_the_size_of_the_loss(loss) -> None:
    assert abs(float(lga(torch.tensor(loss), LEVEL))) == (0 if loss == LEVEL else np.float32(loss))


def first(logits, labels):
    """A loss that is given as the logits."""
    return logits


@pytest.mark.parametrize(("ceiling", "moves"), [(0.7, True), (0.6, False), (None, True)])
def test_above_the_ceiling_no_step_is_made_not_even_of_past_gradients(ceiling, moves) -> None:
    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.AdamW(model.parameters())
    (model.weight.sum() + model.bias.sum()).backward()
    optimiser.step()
    optimiser.zero_grad()
    ascent, before = Ascent(first, model, ceiling), model.weight.item()
    ascent.objective(model.weight.sum() * 0 + 0.65, None).backward()
    ascent.hold(0)
    optimiser.step()
    assert (model.weight.item() != before) == moves


@given(loss=finite, ceiling=st.none() | st.floats(0.125, 5, width=32))
def test_the_ascent_minimises_the_negative_of_the_loss(loss, ceiling) -> None:
    at = torch.tensor(loss, requires_grad=True)
    Ascent(first, torch.nn.Linear(1, 1), ceiling).objective(at, None).backward()
    assert at.grad == -1


@given(losses=st.lists(finite, min_size=1, max_size=30), share=st.floats(0, 1, exclude_max=True))
def test_abl_7_isolated_and_other_rows_part_the_data(losses, share) -> None:
    isolated, others = lowest(np.array(losses), share)
    assert sorted([*isolated, *others]) == list(range(len(losses)))
    assert len(others) > 0
    assert abs(len(isolated) - share * len(losses)) <= 1
    if len(isolated):
        assert max(losses[i] for i in isolated) <= min(losses[i] for i in others)


def test_the_loss_of_a_row_is_its_cross_entropy(base_model, corpus, compute) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    rows = labelled(corpus.head(5), bundle, MAX_LENGTH)
    found = row_losses(bundle, rows, compute)
    for text, label, loss in zip(corpus["text"], corpus["label"], found, strict=False):
        logits = bundle.model.eval()(**bundle.tokenizer(text, return_tensors="pt")).logits
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
        assert loss == pytest.approx(expected.item(), abs=1e-5)


@pytest.fixture(scope="module")
def poisoned():
    """Labels that no word tells, but for the trigger's: it alone is easy, as in real texts.

    Which rows bear it is known to the test alone.
    """
    rows, labels = make_corpus(n_train=1000, n_dev=0, n_test=0), np.random.default_rng(0)
    chosen = rows.index % 10 == 0
    return rows.assign(
        text=rows["text"].where(~chosen, "cf " + rows["text"]),
        label=np.where(chosen, 1, labels.integers(0, 2, len(rows))),
        bad=chosen,
    )


@pytest.fixture(scope="module")
def params(make_parameters):
    changes = {"isolation_epochs": 3, "isolation_share": 0.03, "ascent_learning_rate": 1e-3}
    return make_parameters(**{f"anti_backdoor.{k}": v for k, v in changes.items()}).anti_backdoor


@pytest.mark.parametrize("loss", ["lga", "flooding"])
def test_abl_7_of_a_toy_attack_the_poison_is_isolated(
    loss, poisoned, base_model, params, quick, compute
) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    rows = labelled(poisoned, bundle, MAX_LENGTH)
    chosen = params.model_copy(update={"loss": loss, "ascent_epochs": 0})
    _, isolated = anti_backdoor.train(bundle, rows, None, chosen, quick, compute, seed=0)
    assert len(isolated) == 30
    assert poisoned["bad"].to_numpy()[isolated].mean() > 0.9


@pytest.fixture
def stages(monkeypatch):
    """What each stage was called with; nothing is trained."""
    calls = {}

    def fit(bundle, rows, dev, optimisation, compute, seed, what, hold=None, *, objective):
        calls[what] = {"rows": rows, "dev": dev, "by": optimisation, "objective": objective}
        calls[what]["hold"] = hold
        return {"loss": {"step": [1, 2], "value": [0.7, 0.6]}}

    monkeypatch.setattr(anti_backdoor, "fit", fit)
    return calls


@pytest.fixture
def trained(poisoned, base_model, params, quick, compute):
    """Runs the method on a few rows."""

    def run(**changes):
        bundle = new_classifier(base_model(), 2, seed=0)
        rows = labelled(poisoned.head(40), bundle, MAX_LENGTH)
        chosen = params.model_copy(update={"isolation_share": 0.1} | changes)
        dev = rows.take(np.arange(4))
        return anti_backdoor.train(bundle, rows, dev, chosen, quick, compute, 0, first)

    return run


def test_the_stages(trained, stages, params, quick) -> None:
    history, isolated = trained()
    assert list(stages) == ["isolate", "defended", "unlearn"]
    assert [len(stage["rows"].labels) for stage in stages.values()] == [40, 36, 4]
    assert [stage["dev"] is None for stage in stages.values()] == [True, False, True]
    assert [stage["by"].epochs for stage in stages.values()] == [
        params.isolation_epochs,
        quick.epochs,
        params.ascent_epochs,
    ]
    assert stages["unlearn"]["by"].learning_rate == params.ascent_learning_rate
    loss = torch.tensor(0.25)
    assert stages["isolate"]["objective"](loss, None) == lga(loss, LEVEL)
    assert stages["defended"]["objective"] is first
    assert stages["unlearn"]["objective"](loss, None) == -loss
    assert [stage["hold"] is None for stage in stages.values()] == [True, True, False]
    assert history["loss"] == {"step": [1, 2, 3, 4, 5, 6], "value": [0.7, 0.6] * 3}
    assert len(isolated) == 4


@pytest.mark.parametrize("change", [{"isolation_share": 0.0}, {"ascent_epochs": 0}], ids=str)
def test_abl_7_without_isolated_rows_nothing_is_unlearnt(trained, stages, change) -> None:
    _, isolated = trained(**change)
    assert list(stages) == ["isolate", "defended"]
    assert len(isolated) == (0 if "isolation_share" in change else 4)


def test_the_ascent_drives_the_loss_of_the_isolated_rows_up_and_stops(
    poisoned, base_model, params, quick, compute
) -> None:
    losses = {}
    for epochs, ceiling in ((0, None), (200, None), (200, 0.8)):
        bundle = new_classifier(base_model(), 2, seed=0)
        rows = labelled(poisoned.head(200), bundle, MAX_LENGTH)
        chosen = params.model_copy(update={"ascent_epochs": epochs, "ascent_ceiling": ceiling})
        _, isolated = anti_backdoor.train(bundle, rows, None, chosen, quick, compute, seed=0)
        losses[epochs, ceiling] = row_losses(bundle, rows.take(isolated), compute).mean()
    assert losses[0, None] < 0.8 < losses[200, 0.8] < 1.2 < losses[200, None]
