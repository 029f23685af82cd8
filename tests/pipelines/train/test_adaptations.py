"""What is put into a model and, where it can be, taken out again, on every architecture."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import load_classifier, new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.train import (
    adapter,
    injection,
    low_rank,
    moderate_fitting,
    prefix,
    radial_scaling,
)
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
    return make_parameters(**changes, **{"radial_scaling.zero_init": False}).radial_scaling


@pytest.fixture
def narrow(make_parameters):
    return make_parameters(**{"adapter.bottleneck": 5, "adapter.train_head": False}).adapter


@pytest.fixture
def few_tokens(make_parameters):
    return make_parameters(**{"prefix.tokens": 3, "prefix.train_head": False}).prefix


@pytest.fixture
def moderate(make_parameters):
    return make_parameters().moderate_fitting


@pytest.fixture(params=ARCHITECTURES)
def classifier(request, base_model):
    """A classifier with three labels, of each architecture."""
    return new_classifier(base_model(request.param), 3, seed=0)


MODULES = {
    "low": low_rank,
    "narrow": adapter,
    "radial": radial_scaling,
    "moderate": moderate_fitting,
    "few_tokens": prefix,
}


def stir(model) -> None:
    """What is trained becomes something else than it was at the start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))


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


def test_an_adapter_stands_behind_the_last_layers_of_each_half_block(classifier, narrow) -> None:
    model = adapter.adapt(classifier.model, narrow)
    added = trained(model)
    assert {name.split(".peanut_")[1] for name in added} == {"A.default.weight", "B.default.weight"}
    places = {name.split(".peanut_")[0] for name in added}
    assert len(places) == 2 * 2  # of attention and feed-forward part, in two blocks
    assert {p.split(".")[-1] for p in places} <= {"dense", "out_lin", "lin2", "c_proj"} | {
        "o_proj",
        "down_proj",
    }
    assert {model.get_submodule(place).out_features for place in places} == {HIDDEN}
    assert sum(added.values()) == len(places) * 2 * narrow.bottleneck * HIDDEN


def test_the_head_is_trained_if_asked_for(classifier, low, narrow) -> None:
    low_rank.adapt(classifier.model, low.model_copy(update={"train_head": True}))
    head = {name for name in trained(classifier.model) if "lora_" not in name}
    assert head and all(name.startswith(("classifier", "score")) for name in head)
    injection.take_out(classifier.model)
    adapter.adapt(classifier.model, narrow.model_copy(update={"train_head": True}))
    assert head == {name for name in trained(classifier.model) if "peanut_" not in name}


@pytest.mark.parametrize(
    "methods",
    [
        ("low", "radial"),
        ("narrow",),
        ("narrow", "radial", "moderate"),
        ("low", "moderate"),
    ],
    ids="-".join,
)
def test_what_is_merged_computes_the_same_and_is_an_ordinary_model(
    classifier, methods, compute, corpus, tmp_path, request
) -> None:
    model = classifier.model.eval()
    tokens = tokenise(corpus["text"].head(20), classifier.tokenizer, MAX_LENGTH)
    state = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    adaptations = [(MODULES[name], request.getfixturevalue(name)) for name in methods]
    for module, params in adaptations:
        assert module.adapt(model, params) is model
    stir(model)
    before = predict(classifier, tokens, compute)
    for module, params in reversed(adaptations):
        module.merge(model, params)
    assert state == {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    assert kinds == [type(module) for module in model.modules()]
    torch.testing.assert_close(
        torch.tensor(predict(classifier, tokens, compute)), torch.tensor(before), atol=1e-5, rtol=0
    )
    model.save_pretrained(tmp_path)
    classifier.tokenizer.save_pretrained(tmp_path)
    assert predict(load_classifier(tmp_path), tokens, compute) == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize("method", ["low", "narrow"])
@pytest.mark.parametrize("moderately", [False, True])
def test_fresh_parts_change_nothing(
    classifier, method, moderately, moderate, compute, corpus, request
) -> None:
    tokens = tokenise(corpus["text"].head(20), classifier.tokenizer, MAX_LENGTH)
    before = predict(classifier, tokens, compute)
    MODULES[method].adapt(classifier.model, request.getfixturevalue(method))
    if moderately:
        moderate_fitting.adapt(classifier.model, moderate)
    assert predict(classifier, tokens, compute) == pytest.approx(before, abs=1e-6)


def test_a_silent_branch_changes_nothing(classifier, radial, compute, corpus) -> None:
    if classifier.model.config.model_type in {"gpt2", "llama"}:
        pytest.skip("their output layer is drawn anew, as a head of two")
    tokens = tokenise(corpus["text"].head(20), classifier.tokenizer, MAX_LENGTH)
    before = predict(classifier, tokens, compute)
    radial_scaling.adapt(classifier.model, radial.model_copy(update={"zero_init": True}))
    assert predict(classifier, tokens, compute) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("method", ["low", "narrow", "few_tokens"])
def test_moderate_fitting_trains_one_small_linear_map(
    base_model, method, moderate, request
) -> None:
    model = new_classifier(base_model(), 3, seed=0).model
    params = request.getfixturevalue(method).model_copy(update={"train_head": True})
    model = MODULES[method].adapt(model, params)
    parts = {name: p for name, p in model.named_parameters() if p.requires_grad}
    drawn = {name: p.detach().clone() for name, p in parts.items()}
    head = {name: p for name, p in parts.items() if "classifier" in name}
    n_parts = sum(p.numel() for name, p in parts.items() if name not in head)
    moderate_fitting.adapt(model, moderate)
    n_head = sum(p.numel() for p in head.values())
    assert head and sum(trained(model).values()) == 2 * 2 + 2 * n_parts + n_head
    moderate_fitting.merge(model, moderate)
    assert {name for name, _ in model.named_parameters()} >= drawn.keys()
    for name, value in drawn.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), value, atol=1e-6, rtol=1e-6)


def test_moderate_fitting_alone_has_nothing_to_work_on(base_model, moderate) -> None:
    model = new_classifier(base_model(), 2, seed=0).model
    with pytest.raises(InputError, match=r"moderate_fitting.*add one of them"):
        moderate_fitting.adapt(model, moderate)


def test_without_reparameterisation_lora_is_the_librarys(base_model, low) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    ours = low_rank.adapt(new_classifier(base_model(), 2, seed=0).model, low)
    config = LoraConfig(r=low.rank, lora_alpha=low.alpha, target_modules=["query", "value"])
    torch.manual_seed(0)
    theirs = get_peft_model(new_classifier(base_model(), 2, seed=0).model, config).get_base_model()
    assert trained(ours) == trained(theirs)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_but_the_prefix_is_trained(base_model, few_tokens, architecture) -> None:
    model = new_classifier(base_model(architecture), 3, seed=0).model
    if architecture in {"distilbert", "deberta-v2"}:
        with pytest.raises(InputError, match=rf"a {architecture} .*\(bert, roberta, gpt2, llama\)"):
            prefix.adapt(model, few_tokens)
        return
    added = trained(prefix.adapt(model, few_tokens))
    assert added == {"prompt_encoder.default.embedding.weight": 3 * 2 * 2 * HIDDEN}
    model = new_classifier(base_model(architecture), 3, seed=0).model
    added = trained(prefix.adapt(model, few_tokens.model_copy(update={"train_head": True})))
    assert len(added) > 1 and all(n.startswith(("base_model.", "prompt_encoder")) for n in added)


def test_a_prefix_needs_room(base_model, few_tokens) -> None:
    encoder = base_model("roberta").model
    prefix.check_length(encoder, few_tokens, MAX_LENGTH - 3)
    with pytest.raises(InputError, match=rf"tokens 3 and .* 30 .* the {MAX_LENGTH} positions"):
        prefix.check_length(encoder, few_tokens, MAX_LENGTH - 2)


def test_layers_that_are_not_there(base_model, low, narrow, radial) -> None:
    model = new_classifier(base_model(), 2, seed=0).model
    with pytest.raises(InputError, match=r"adapter.targets.* no dense layer 'put.dense'; .*dense"):
        adapter.adapt(model, narrow.model_copy(update={"targets": ["output.dense", "put.dense"]}))
    with pytest.raises(InputError, match=r"low_rank.targets.* no dense layer 'q_proj'"):
        low_rank.adapt(model, low.model_copy(update={"targets": ["query", "q_proj"]}))
    for end in ("attention", "LayerNorm", "word_embeddings"):  # layers, but not dense ones
        for method, params in ((low_rank, low), (adapter, narrow)):
            with pytest.raises(InputError, match=f"no dense layer '{end}'; .*query"):
                method.adapt(model, params.model_copy(update={"targets": [end]}))
    for name in ("pool", "score.0"):
        with pytest.raises(InputError, match=rf"radial_scaling.layer.*'{name}'.*classifier"):
            radial_scaling.adapt(model, radial.model_copy(update={"layer": name}))


def test_an_unknown_architecture_asks_for_the_layers(base_model, low, narrow, radial) -> None:
    model = new_classifier(base_model(), 2, seed=0).model
    model.config.model_type = "mine"
    with pytest.raises(InputError, match=r"low_rank\.targets"):
        low_rank.adapt(model, low)
    with pytest.raises(InputError, match=r"adapter\.targets"):
        adapter.adapt(model, narrow)
    with pytest.raises(InputError, match=r"radial_scaling\.layer"):
        radial_scaling.adapt(model, radial)


@pytest.mark.parametrize(
    "change",
    [
        {"radial_scaling.bands": []},
        {"radial_scaling.bands": [1, -2]},
        {"radial_scaling.bands": [float("inf")]},
        {"radial_scaling.rank": 0},
        {"low_rank.targets": []},
        {"low_rank.rank": 0},
        {"adapter.bottleneck": 0},
        {"prefix.tokens": 0},
        {"moderate_fitting.in_dim": 0},
        {"moderate_fitting.mid_dim": 0},
        {"defended_training.clean_rows": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(make_parameters, change) -> None:
    (name,) = change
    with pytest.raises((InputError, ValidationError), match=name.split(".")[-1]):
        make_parameters(**change)
