"""Model folders as Kedro datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kedro.io.core import DatasetError, Version

from backdoor_pipeline.datasets.costs import CostsDataset
from backdoor_pipeline.datasets.models import (
    ClassifierDataset,
    ModelCardDataset,
    PretrainedModelDataset,
    PretrainedTokenizerDataset,
)
from backdoor_pipeline.datasets.source import SourceDataset
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.inputs import read_by
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from tiny import ARCHITECTURES, make_images


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_classifier_predicts_the_same_after_it_was_saved(
    base_model, compute, corpus, tmp_path, architecture
) -> None:
    bundle = new_classifier(base_model(architecture), 3, seed=0)
    dataset = ClassifierDataset(filepath=str(tmp_path / "victim"))
    dataset.save(bundle)
    loaded = dataset.load()
    texts = corpus["text"].head(10)
    before, after = (
        predict(b, tokenise(texts, b.tokenizer, 32), compute) for b in (bundle, loaded)
    )
    np.testing.assert_array_equal(before, after)
    assert loaded.tokenizer.pad_token_id == bundle.tokenizer.pad_token_id


@pytest.mark.parametrize("name", ["resnet9", "wrn-28-10"])
def test_a_classifier_of_images_predicts_the_same_after_it_was_saved(
    compute, tmp_path, name
) -> None:
    images = make_images(n_train=8, n_dev=0, n_test=0, channels=3)
    form = measured_format(decode(images["image"].tolist(), "images"))
    bundle = new_image_classifier(name, 4, form, 1 / 16, seed=0)
    dataset = ClassifierDataset(filepath=str(tmp_path / "victim"), provenance={"seed": 3})
    dataset.save(bundle)
    loaded = dataset.load()
    assert loaded.image_format == form
    before, after = (predict(b, read_by(b, images, 0), compute) for b in (bundle, loaded))
    np.testing.assert_array_equal(before, after)
    assert {path.name for path in (tmp_path / "victim").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"),
    }
    assert "seed" in str(dataset.preview())


def test_a_model_folder_is_safetensors_and_provenance_alone(base_model, tmp_path) -> None:
    dataset = ClassifierDataset(filepath=str(tmp_path / "victim"), provenance={"seed": 3})
    dataset.save(base_model())
    suffixes = {path.suffix for path in (tmp_path / "victim").iterdir()}
    assert suffixes <= {".safetensors", ".json", ".txt", ".jinja"}
    provenance = json.loads((tmp_path / "victim" / "provenance.json").read_text())
    assert provenance["seed"] == 3
    assert provenance["written_by"].startswith("backdoor_pipeline ")
    assert "seed" in str(dataset.preview())
    modes = {path.stat().st_mode for path in (tmp_path / "victim").iterdir()}
    assert len(modes) == 1, "who may read one file may read all"


def test_the_card_goes_into_the_newest_model(base_model, tmp_path) -> None:
    folder = tmp_path / "purified"
    card = ModelCardDataset(filepath=str(tmp_path / "card.md"), model=str(folder))
    assert not card.exists()
    with pytest.raises(DatasetError, match=r"no model in .* for the card"):
        card.save("# A model\n")
    for version in ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"):
        ClassifierDataset(filepath=str(folder), version=Version(None, version)).save(base_model())
        assert not card.exists()
        card.save(f"# {version}\n")
        assert card.load() == f"# {version}\n"
        assert card.exists()
    assert len(list(folder.rglob("README.md"))) == 2


def test_pretrained_models_are_read_only(model_params, base_model) -> None:
    group = model_params().model_dump()
    for dataset_class in (PretrainedModelDataset, PretrainedTokenizerDataset):
        dataset = dataset_class(model=group)
        assert dataset.exists()
        with pytest.raises(DatasetError, match="read only"):
            dataset.save(base_model())
    tokenizer = PretrainedTokenizerDataset(model=group).load()
    assert tokenizer.get_vocab() == PretrainedModelDataset(model=group).load().tokenizer.get_vocab()


def test_costs_are_those_of_the_given_folders(tmp_path) -> None:
    for key, node in (("a", "train"), ("b", "detect"), ("c", "other")):
        (tmp_path / key).mkdir()
        (tmp_path / key / f"{node}.json").write_text('{"wall_seconds": 1.0}')
    dataset = CostsDataset(filepath=str(tmp_path), keys=["a", "b", "missing"])
    assert dataset.load() == {"train": {"wall_seconds": 1.0}, "detect": {"wall_seconds": 1.0}}
    assert dataset.exists()
    with pytest.raises(DatasetError, match="read only"):
        dataset.save({})


def test_a_source_is_read_only_and_read(tmp_path, corpus, make_parameters) -> None:
    corpus.to_csv(tmp_path / "reviews.csv", index=False)
    source = make_parameters(**{"source.data": str(tmp_path / "reviews.csv")}).source
    dataset = SourceDataset(source=source.model_dump())
    assert dataset.exists()
    assert sum(map(len, dataset.load().tables.values())) == len(corpus)
    with pytest.raises(DatasetError, match="read only"):
        dataset.save("x")
