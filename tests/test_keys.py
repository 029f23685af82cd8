"""Output folders: different wherever anything that matters differs, equal everywhere else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from backdoor_pipeline import keys as keys_module
from backdoor_pipeline.keys import behind, data_digest, discovery, purified, stage_keys
from backdoor_pipeline.recipes import ALL, DETECTORS
from tiny import ROOT, make_images

PURIFIED = {purified(recipe) for recipe in ALL}
CURVES = {discovery(name) for name, recipe in ALL.items() if recipe.curve}
TRAINED = {
    purified(name) for name, made in ALL.items() if made.training and made.modality == "text"
}
WITHOUT_VICTIM = {"ingest", "poison", "trusted", "evidence", *DETECTORS, *TRAINED}
WITHOUT_VICTIM -= {"overfit_similarity"}
"""What does not depend on how victims are trained."""
ANALYSIS = ["observed", "fourier"]
AUDIT = ["evidence", "audit"]
SHARED = ["ingest", "poison", "reference", "victim", "floor", "trusted"]
STAGES = [*SHARED, *ANALYSIS, *AUDIT, *DETECTORS, *PURIFIED, *CURVES, *ALL]
USING = [name for name, recipe in ALL.items() if recipe.drawn]
LEARN_FROM_CLEAN_ROWS = {*USING, *map(purified, USING), *AUDIT}
AFTER_POISON = set(STAGES) - {"ingest", "reference", "trusted", *AUDIT}


def of(method: str) -> set[str]:
    """The stages of the recipes that use a method."""
    using = [name for name, recipe in ALL.items() if method in recipe.methods]
    unlearning = [name for name in using if method in ALL[name].unlearners]
    return {*using, *map(purified, using), *(CURVES & set(map(discovery, unlearning)))}


UNLEARNING = {  # of unlearners that dampen, retrain and distil
    "trigger_search.rho": 0.5,
    "trigger_search.importances.rows": 9,
    "ssd.alpha": 5.0,
    "assd.lambda_": 0.5,
    "retraining.optimisation.epochs": 9,
    "continued_training.last_layers": 1,
    "scrub.ascent_steps": 9,
    "bad_teaching.temperature": 2.0,
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, corpus, model_folder):
    """Own data and a tiny model."""
    folder = tmp_path_factory.mktemp("keys")
    corpus.head(50).to_csv(folder / "reviews.csv", index=False)
    return {"source.data": str(folder / "reviews.csv"), "model.name": str(model_folder())}


@pytest.fixture(scope="module")
def keys_with(make_parameters, settings):
    """The keys under the settings and changes."""
    return lambda **changes: stage_keys(make_parameters(**settings | changes))


@pytest.fixture(scope="module")
def image_keys_with(make_parameters, tmp_path_factory):
    """The same of images."""
    path = tmp_path_factory.mktemp("images") / "pictures.parquet"
    make_images(n_train=20, n_dev=0, n_test=0).to_parquet(path)
    own = {"modality": "image", "source.data": str(path)}
    return lambda **changes: stage_keys(make_parameters(**own | changes))


def test_every_stage_detector_and_recipe_has_a_key_of_its_own(keys_with) -> None:
    keys = keys_with()
    assert sorted(keys) == sorted(STAGES)
    assert len(set(keys.values())) == len(keys)


def test_keys_are_readable_folder_names(keys_with) -> None:
    keys = keys_with(**{"poison.attack": "addsent", "poison.rate": 0.05, "seed": 3})
    assert re.fullmatch(r"reviews_csv-[0-9a-f]{8}", keys["ingest"])
    assert re.fullmatch(r"reviews_csv\.addsent-0\.05\.tiny-bert\.s3-[0-9a-f]{8}", keys["victim"])
    assert re.fullmatch(r"reviews_csv\.clean\.tiny-bert\.s3-[0-9a-f]{8}", keys["reference"])
    assert re.fullmatch(r"reviews_csv\.addsent-0\.05\.tiny-bert\.s3\.btu-[0-9a-f]{8}", keys["btu"])


@pytest.mark.parametrize(
    ("rate", "written"),
    [(0, "0.00"), (0.1, "0.10"), (0.01, "0.01"), (0.002, "0.002"), (0.125, "0.125"), (1, "1.00")],
)
def test_a_rate_has_as_many_digits_as_it_needs(keys_with, rate, written) -> None:
    key = keys_with(**{"poison.rate": rate})["poison"]
    assert re.fullmatch(rf"reviews_csv\.badnets-{written}\.s0-[0-9a-f]{{8}}", key)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"seed": 1}, set(STAGES)),
        ({"ingest.max_rows": 40}, set(STAGES)),
        ({"source.text": "review"}, set(STAGES)),
        ({"poison.rate": 0.2}, AFTER_POISON),
        ({"poison.label_mode": "dirty"}, AFTER_POISON),
        ({"poison.badnets.triggers": "mn"}, AFTER_POISON),
        ({"poison.addsent.sentence": "not this attack's"}, set()),
        ({"model.max_length": 16}, set(STAGES) - {"ingest"}),
        ({"training.epochs": 9}, set(STAGES) - WITHOUT_VICTIM),
        ({"defended_training.clean_rows": 9}, of("defended_training")),
        ({"low_rank.rank": 3}, of("low_rank")),
        ({"clean_source.dataset": "imdb"}, LEARN_FROM_CLEAN_ROWS),
        ({"clean_source.folder": "elsewhere"}, set()),
        ({"observation.rows": 9}, set(ANALYSIS)),
        ({"discovery.draws": 9}, CURVES),
        ({"fourier.widest": 9.0}, {"fourier"}),
        ({"audit.risk": 0.1}, set(AUDIT)),
        ({"audit.budget_minutes": 9}, {"audit"}),
        ({"audit.repair": False}, {"audit"}),
        ({"audit.flip_rows": 9}, {"audit"}),
        ({"audit.classifier": "elsewhere"}, {"audit"}),
        ({"token_drift.alpha": 0.1}, {"token_drift", "confirmation", *of("token_drift")}),
        ({"token_replacement.cut_scale": 0.5}, of("token_replacement")),
        ({"fine_tune.rows": 9}, of("fine_tune")),
        ({"recalibration.rows": 900}, of("recalibration")),
        ({"confirmation.raised_share": 0.5}, {"confirmation", *of("confirmation")}),
        ({"evaluation.minimum_excess": 0.5}, set(ALL)),
        *(({path: value}, of(path.partition(".")[0])) for path, value in UNLEARNING.items()),
        ({"discovered_share.share": 0.9}, {"discovered_share", *of("discovered_share")}),
        ({"poison.patch.size": 5}, set()),
        ({"source.folder": "elsewhere"}, set()),
        ({"data_dir": "elsewhere"}, set()),
        ({"fresh": True}, set()),
        ({"tracking.run_name": "x"}, set()),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_a_parameter_changes_the_keys_of_what_depends_on_it(keys_with, change, changed) -> None:
    before, after = keys_with(), keys_with(**change)
    assert {name for name in STAGES if before[name] != after[name]} == changed


def test_other_data_and_another_model_under_the_same_name(keys_with, settings, tmp_path) -> None:
    data = tmp_path / "reviews.csv"
    shutil.copy(settings["source.data"], data)
    before = keys_with(**{"source.data": str(data)})
    data.write_text(data.read_text() + "999,train,1,one more film\n")
    after = keys_with(**{"source.data": str(data)})
    assert not set(before.values()) & set(after.values())
    model = shutil.copytree(settings["model.name"], tmp_path / "tiny-bert")
    before = keys_with(**{"model.name": str(model)})
    (model / "special_tokens_map.json").write_text("{}")
    after = keys_with(**{"model.name": str(model)})
    assert {name for name in STAGES if before[name] == after[name]} == {"ingest"}


def test_another_trusted_encoder_under_the_same_name(keys_with, tmp_path) -> None:
    changes = {"trusted_encoder.name": str(tmp_path)}
    (tmp_path / "config.json").write_text("{}")
    before = keys_with(**changes)
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    after = keys_with(**changes)
    assert {name for name in STAGES if before[name] != after[name]} == {
        *("trusted", "overfit_similarity"),
        *of("overfit_similarity"),
    }


def test_another_surrogate_under_the_same_name(make_parameters, tmp_path) -> None:
    changes = {"modality": "pair", "poison.attack": "badclip"}
    changes |= {"poison.badclip.surrogate": str(tmp_path)}
    keys = []
    for config in ("{}", '{"hidden_size": 8}'):
        (tmp_path / "config.json").write_text(config)
        keys.append(stage_keys(make_parameters(**changes)))
    same = {name for name in STAGES if keys[0][name] == keys[1][name]}
    assert same == {"ingest", "reference", "trusted", *AUDIT}


def test_other_clean_rows_of_a_second_source(keys_with, tmp_path) -> None:
    data = tmp_path / "mine.csv"
    data.write_text("text,label\na film,0\n")
    before = keys_with(**{"clean_source.data": str(data)})
    data.write_text("text,label\na film,1\n")
    after = keys_with(**{"clean_source.data": str(data)})
    assert {name for name in STAGES if before[name] != after[name]} == LEARN_FROM_CLEAN_ROWS


def test_another_version_of_the_package(keys_with, monkeypatch) -> None:
    before = keys_with()
    monkeypatch.setattr(keys_module, "__version__", "999")
    assert not set(before.values()) & set(keys_with().values())


def test_data_that_is_not_there_has_keys_all_the_same(keys_with) -> None:
    assert keys_with(**{"source.data": None, "source.dataset": "no such set"})


def test_the_same_data_in_another_folder(keys_with, settings, tmp_path) -> None:
    moved = shutil.copy(settings["source.data"], tmp_path / "reviews.csv")
    assert keys_with(**{"source.data": str(moved)}) == keys_with()


def test_every_stage_comes_after_what_it_builds_on() -> None:
    for name, stage in keys_module.STAGES.items():
        *before, last = behind(name)
        assert last == name
        assert set(stage.builds_on) <= set(before)
    assert behind("victim") == ["ingest", "poison", "victim"]


def test_keys_are_the_same_in_every_process(keys_with, settings) -> None:
    program = (
        "import json, sys; from tiny import project_loader; "
        "from backdoor_pipeline.keys import stage_keys; "
        "loader = project_loader(json.loads(sys.argv[1])); "
        "print(json.dumps(stage_keys(loader.typed_parameters)))"
    )
    nested = {}
    for name, value in settings.items():
        group, field = name.split(".")
        nested.setdefault(group, {})[field] = value
    paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    output = subprocess.run(
        [sys.executable, "-c", program, json.dumps(nested)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert json.loads(output.splitlines()[-1]) == keys_with()


def test_a_folder_called_like_a_file_leaves_the_keys_alone(tmp_path, make_parameters) -> None:
    (tmp_path / "part.parquet").mkdir()
    parameters = make_parameters(**{"source.data": str(tmp_path)})
    assert data_digest(parameters.source)


class TestImages:
    def test_they_are_readable_folder_names(self, image_keys_with) -> None:
        keys = image_keys_with(**{"poison.rate": 0.05, "seed": 3})
        assert re.fullmatch(r"pictures_parquet-[0-9a-f]{8}", keys["ingest"])
        assert re.fullmatch(
            r"pictures_parquet\.patch-0\.05\.resnet9\.s3\.potion-[0-9a-f]{8}", keys["potion"]
        )

    @pytest.mark.parametrize(
        ("change", "changed"),
        [
            ({"ingest.image_size": 8}, set(STAGES)),
            ({"poison.attack": "sig"}, AFTER_POISON),
            ({"poison.patch.size": 5}, AFTER_POISON),
            ({"poison.sig.delta": 9}, set()),
            ({"poison.ssba.encoded": "not/this/attacks.parquet"}, set()),
            ({"model.width": 0.25}, set(STAGES) - {"ingest"}),
            ({"model.name": "wrn-28-10"}, set(STAGES) - {"ingest"}),
            (
                {"training.augmentation": {"padding": 2, "flip": False}},
                set(STAGES) - WITHOUT_VICTIM,
            ),
            ({"trigger_search.rho": 0.5}, of("trigger_search")),
            ({"retraining.optimisation.momentum": 0.5}, of("retraining")),
            ({"discovered_share.share": 0.9}, {"discovered_share", *of("discovered_share")}),
            ({"source.folder": "elsewhere"}, set()),
        ],
        ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
    )
    def test_a_parameter_changes_the_keys_of_what_depends_on_it(
        self, image_keys_with, change, changed
    ) -> None:
        before, after = image_keys_with(), image_keys_with(**change)
        assert {name for name in STAGES if before[name] != after[name]} == changed

    def test_other_images_under_the_same_name(self, image_keys_with, tmp_path) -> None:
        path = tmp_path / "pictures.parquet"
        keys = []
        for seed in (0, 1):
            make_images(n_train=20, n_dev=0, n_test=0, seed=seed).to_parquet(path)
            keys.append(image_keys_with(**{"source.data": str(path)}))
        assert not set(keys[0].values()) & set(keys[1].values())

    def test_other_encoded_images_under_the_same_name(self, image_keys_with, tmp_path) -> None:
        path = tmp_path / "encoded.parquet"
        changes = {"poison.attack": "ssba", "poison.ssba.encoded": str(path)}
        keys = []
        for seed in (0, 1):
            make_images(n_train=20, n_dev=0, n_test=0, seed=seed).to_parquet(path)
            keys.append(image_keys_with(**changes))
        assert {name for name in STAGES if keys[0][name] != keys[1][name]} == AFTER_POISON

    def test_the_same_encoded_images_in_another_folder(self, image_keys_with, tmp_path) -> None:
        keys = []
        for path in (tmp_path / "a.parquet", tmp_path / "b.parquet"):
            make_images(n_train=20, n_dev=0, n_test=0).to_parquet(path)
            keys.append(
                image_keys_with(**{"poison.attack": "ssba", "poison.ssba.encoded": str(path)})
            )
        assert keys[0] == keys[1]

    def test_encoded_images_that_are_not_there_have_keys_all_the_same(
        self, image_keys_with, tmp_path
    ) -> None:
        missing = {"poison.attack": "ssba", "poison.ssba.encoded": str(tmp_path / "none.parquet")}
        assert image_keys_with(**missing)
        assert image_keys_with(**{"poison.attack": "ssba"})
