"""What is put into a model and taken out again: LoRA and radial scaling, on every architecture."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import load_classifier, new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.train import low_rank, radial_scaling
from tiny import ARCHITECTURES, MAX_LENGTH

RANK, BANDS, HIDDEN = 3, [1.0, 4.0], 32
ADAPTED = {"deberta-v2": 2 * 2, "gpt2": 2, "llama": 2 * 2}  # layers, of two blocks
OUTPUTS = {"gpt2": 3 * HIDDEN}


@pytest.fixture
def low(make_parameters):
    return make_parameters(**{"low_rank.rank": RANK, "low_rank.train_head": False}).low_rank


@pytest.fixture
def radial(make_parameters):
    changes = {"radial_scaling.bands": BANDS, "radial_scaling.rank": 2}
    return make_parameters(**changes, **{"radial_scaling.silent": False}).radial_scaling


@pytest.fixture(params=ARCHITECTURES)
def classifier(request, base_model):
    """A classifier with three labels, of each architecture."""
    return new_classifier(base_model(request.param), 3, seed=0)


def trained(model) -> dict[str, int]:
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def test_musclelora_10_6_nothing_but_what_was_put_in_is_trained(classifier, low, radial) -> None:
    model, architecture = classifier.model, classifier.model.config.model_type
    low_rank.adapt(model, low)
    lora = trained(model)
    assert all("lora_" in name for name in lora)
    outputs = OUTPUTS.get(architecture, HIDDEN)
    assert sum(lora.values()) == ADAPTED.get(architecture, 4) * RANK * (HIDDEN + outputs)
    radial_scaling.adapt(model, radial)
    added = {name: n for name, n in trained(model).items() if name not in lora}
    assert {name.rpartition(".")[2] for name in added} == {"left", "right"}
    width = radial_scaling.WIDTH if architecture in {"gpt2", "llama"} else HIDDEN
    assert sum(added.values()) == len(BANDS) * 2 * (HIDDEN + width)


def test_the_head_is_trained_if_asked_for(classifier, low) -> None:
    low_rank.adapt(classifier.model, low.model_copy(update={"train_head": True}))
    head = {name for name in trained(classifier.model) if "lora_" not in name}
    assert head and all(name.startswith(("classifier", "score")) for name in head)


def test_what_is_merged_computes_the_same_and_is_an_ordinary_model(
    classifier, low, radial, compute, corpus, tmp_path
) -> None:
    model = classifier.model.eval()
    tokens = tokenise(corpus["text"].head(20), classifier.tokenizer, MAX_LENGTH)
    names = set(model.state_dict())
    low_rank.adapt(model, low)
    radial_scaling.adapt(model, radial)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    before = predict(classifier, tokens, compute)
    radial_scaling.merge(model, radial)
    low_rank.merge(model, low)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(
        torch.tensor(predict(classifier, tokens, compute)), torch.tensor(before), atol=1e-5, rtol=0
    )
    model.save_pretrained(tmp_path)
    classifier.tokenizer.save_pretrained(tmp_path)
    assert predict(load_classifier(tmp_path), tokens, compute) == pytest.approx(before, abs=1e-5)


def test_fresh_lora_and_a_silent_branch_change_nothing(
    classifier, low, radial, compute, corpus
) -> None:
    if classifier.model.config.model_type in {"gpt2", "llama"}:
        pytest.skip("their output layer is drawn anew, as a head of two")
    tokens = tokenise(corpus["text"].head(20), classifier.tokenizer, MAX_LENGTH)
    before = predict(classifier, tokens, compute)
    low_rank.adapt(classifier.model, low)
    radial_scaling.adapt(classifier.model, radial.model_copy(update={"silent": True}))
    assert predict(classifier, tokens, compute) == pytest.approx(before, abs=1e-6)


def test_layers_that_are_not_there(base_model, low, radial) -> None:
    model = new_classifier(base_model(), 2, seed=0).model
    with pytest.raises(InputError, match=r"low_rank.targets.* no layer 'q_proj'"):
        low_rank.adapt(model, low.model_copy(update={"targets": ["query", "q_proj"]}))
    with pytest.raises(InputError, match=r"radial_scaling.layer.*'pool'.*classifier"):
        radial_scaling.adapt(model, radial.model_copy(update={"layer": "pool"}))


def test_an_unknown_architecture_asks_for_the_layers(base_model, low, radial) -> None:
    model = new_classifier(base_model(), 2, seed=0).model
    model.config.model_type = "mine"
    with pytest.raises(InputError, match=r"low_rank\.targets"):
        low_rank.adapt(model, low)
    with pytest.raises(InputError, match=r"radial_scaling\.layer"):
        radial_scaling.adapt(model, radial)


@pytest.mark.parametrize(
    "change",
    [
        {"radial_scaling.bands": []},
        {"radial_scaling.bands": [1, -2]},
        {"radial_scaling.rank": 0},
        {"low_rank.rank": 0},
        {"defended_training.clean_rows": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(make_parameters, change) -> None:
    (name,) = change
    with pytest.raises((InputError, ValidationError), match=name.split(".")[-1]):
        make_parameters(**change)
