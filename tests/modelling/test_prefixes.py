"""Models behind a prefix: what it computes, how it is saved, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import load_classifier, new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.prefixes import ARCHITECTURES, ordinary, with_prefix
from backdoor_pipeline.modelling.text import Tokens, tokenise

LENGTH = 24


@pytest.fixture(params=ARCHITECTURES)
def prefixed(request, base_model):
    """A classifier with three labels behind a prefix, of each architecture."""
    bundle = new_classifier(base_model(request.param), 3, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return bundle._replace(model=with_prefix(bundle.model, 4).eval())


@pytest.fixture
def saved(base_model, tmp_path):
    """The folder of a BERT behind a prefix."""
    bundle = new_classifier(base_model(), 2, seed=0)
    bundle = bundle._replace(model=with_prefix(bundle.model, 4))
    ClassifierDataset(filepath=str(tmp_path / "model")).save(bundle)
    return tmp_path / "model"


def texts(corpus, bundle, n_rows=12):
    return tokenise(corpus["text"].head(n_rows), bundle.tokenizer, LENGTH)


def test_a_prediction_does_not_depend_on_the_other_texts(prefixed, corpus, compute) -> None:
    tokens = texts(corpus, prefixed)
    assert len(set(tokens.lengths)) > 1
    together = predict(prefixed, tokens, compute)
    for row in range(len(tokens)):
        alone = predict(prefixed, tokens.take([row]), compute)
        assert alone[0] == pytest.approx(together[row], abs=1e-6)


def test_the_prefix_is_attended_to(prefixed, corpus, compute) -> None:
    tokens = texts(corpus, prefixed)
    without = predict(prefixed._replace(model=ordinary(prefixed.model)), tokens, compute)
    assert abs(predict(prefixed, tokens, compute) - without).max() > 1e-4


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_keys_and_values_of_words_are_as_good_as_the_words(
    base_model, corpus, compute, architecture
) -> None:
    bundle = new_classifier(base_model(architecture), 3, seed=0, dropout=0.0)
    rows = texts(corpus, bundle, 1)
    first, rest = rows.ids[:4], rows.ids[4:]
    whole = predict(bundle, rows, compute)
    with torch.no_grad():
        given = bundle.model(input_ids=torch.tensor(first)[None].long(), use_cache=True)
    states = [
        half[0].transpose(0, 1).flatten(1)
        for layer in given.past_key_values.layers
        for half in (layer.keys, layer.values)
    ]
    model = with_prefix(bundle.model, 4)
    with torch.no_grad():
        model.get_parameter("prompt_encoder.default.embedding.weight").copy_(torch.cat(states, 1))
    behind = Tokens(rest, np.array([0, len(rest)]))
    assert predict(bundle._replace(model=model), behind, compute) == pytest.approx(whole, abs=1e-5)


def test_it_predicts_the_same_after_it_was_saved(prefixed, corpus, compute, tmp_path) -> None:
    tokens = texts(corpus, prefixed)
    before = predict(prefixed, tokens, compute)
    bundle = prefixed
    for name in ("once", "twice"):
        dataset = ClassifierDataset(filepath=str(tmp_path / name))
        dataset.save(bundle)
        bundle = dataset.load()
        assert (predict(bundle, tokens, compute) == before).all()
    assert bundle.model.state_dict().keys() == prefixed.model.state_dict().keys()


def test_transformers_and_peft_alone_load_it(prefixed, corpus, compute, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "model"
    ClassifierDataset(filepath=str(folder)).save(prefixed)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, f"{folder}/prefix")
    tokens = texts(corpus, prefixed)
    before = predict(prefixed, tokens, compute)
    assert (predict(prefixed._replace(model=model), tokens, compute) == before).all()


def test_the_folder_holds_no_pickle_and_no_place_of_this_machine(saved) -> None:
    assert {path.name for path in (saved / "prefix").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(saved.parent) not in (saved / "prefix" / "adapter_config.json").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base_model_name_or_path", "owner/model"),
        ("auto_mapping", {"parent_library": "evil", "base_model_class": "Model"}),
        ("revision", "main"),
        ("peft_type", "LORA"),
        ("task_type", "CAUSAL_LM"),
    ],
)
def test_settings_that_lead_elsewhere_are_refused(saved, name, value) -> None:
    path = saved / "prefix" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(InputError, match=rf"adapter_config.json sets {name} to"):
        load_classifier(saved)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_configuration(saved, text) -> None:
    (saved / "prefix" / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=r"prefix/adapter_config\.json (is not valid|holds no)"):
        load_classifier(saved)


def test_a_pickle_is_never_opened(saved) -> None:
    (saved / "prefix" / "adapter_model.safetensors").unlink()
    (saved / "prefix" / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors.*no pickle"):
        load_classifier(saved)


def test_a_file_in_the_place_of_the_folder(saved) -> None:
    for path in (saved / "prefix").iterdir():
        path.unlink()
    (saved / "prefix").rmdir()
    (saved / "prefix").write_text("{}")
    with pytest.raises(InputError, match="has no adapter_config"):
        load_classifier(saved)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(saved, share) -> None:
    path = saved / "prefix" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="the model cannot be read"):
        load_classifier(saved)


@pytest.mark.parametrize("change", [{"num_virtual_tokens": 5}, {"num_layers": 3}])
def test_a_prefix_of_another_size(saved, change) -> None:
    path = saved / "prefix" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="the model cannot be read"):
        load_classifier(saved)


def test_a_prefix_before_a_model_that_takes_none(saved, model_folder) -> None:
    for path in model_folder("distilbert").iterdir():
        shutil.copy(path, saved)
    with pytest.raises(InputError, match=r"a distilbert model takes none"):
        load_classifier(saved)
