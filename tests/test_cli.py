"""``kedro run`` with bad input: one clear line, exit status 1, nothing written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backdoor_pipeline.cli import cli
from backdoor_pipeline.command_line import find_input_error
from backdoor_pipeline.errors import InputError
from tiny import ROOT, make_images


@pytest.fixture
def kedro_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``kedro run`` in this process, untracked, written to a temporary folder."""
    from kedro.framework.startup import bootstrap_project

    monkeypatch.setenv("BACKDOOR_TRACKING", "false")
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "no-data"))
    monkeypatch.chdir(ROOT)
    bootstrap_project(ROOT)

    def run(*params: str, options: tuple[str, ...] = (), data_dir: Path | None = None) -> Result:
        settings = [f"data_dir={data_dir or tmp_path / 'data'}", *params]
        arguments = ["run", "--env", "smoke", *options, "--params", ",".join(settings)]
        return CliRunner().invoke(cli, arguments)

    return run


def assert_one_clear_line(result: Result, *expected: str) -> None:
    assert result.exit_code == 1, result.output
    errors = result.stderr[result.stderr.index("Error: ") :].strip().splitlines()
    assert len(errors) == 1, errors
    assert "Traceback" not in result.output
    for part in expected:
        assert part in errors[0]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (["seed=-1"], ["seed is -1", "greater than or equal to 0"]),
        (["seed=abc"], ["seed is 'abc'", "valid integer"]),
        (["poison.rate=1.5"], ["poison.rate is 1.5", "less than or equal to 1"]),
        (["poison_rate=-0.1"], ["poison.rate is -0.1"]),
        (["poison.rate=much"], ["poison.rate is 'much'", "valid number"]),
        (["attack=badnet"], ["poison.attack is 'badnet'; did you mean 'badnets'?"]),
        (["sead=1"], ["there is no parameter 'sead'; did you mean 'seed'?"]),
        (["poison.tigger=cf"], ["there is no parameter 'poison.tigger'"]),
        (["compute.device=tpu"], ["compute.device is 'tpu'", "cpu"]),
        (["dataset=sst3"], ["sst3", "sst2"]),
        (["dataset=sst2"], ["sst2"]),
        (["data=/no/where.csv"], ["/no/where.csv"]),
        (["dataset=table", "trigger=cf"], ["source.data"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else "",
)
def test_bad_values(kedro_run, tmp_path, params, expected) -> None:
    assert_one_clear_line(kedro_run(*params), *expected)
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "data").glob("0*"))


def test_an_empty_trigger(kedro_run) -> None:
    result = kedro_run("trigger=")
    assert result.exit_code == 1
    assert "poison.badnets.triggers [] has no word" in result.stderr


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("btuu", "did you mean 'btu'?"), ("zzz", ", association, audit, badt, btu")],
)
def test_unknown_pipelines(kedro_run, name, suggestion) -> None:
    result = kedro_run(options=("--pipelines", name))
    assert_one_clear_line(result, f"there is no pipeline '{name}'", suggestion)


class TestModality:
    @pytest.mark.parametrize(
        ("pipelines", "params", "expected"),
        [
            (None, ["attack=patch"], ["'patch' is for image or pair data, but modality is 'text'"]),
            ("potion", ["attack=badnets"], ["'badnets' is for text data", "modality is 'image'"]),
            ("potion", ["modality=text"], ["modality is 'text', but potion is for image data"]),
            ("btu", ["modality=image"], ["modality is 'image', but btu is for text", "leave mod"]),
            (None, ["modality=image"], ["btu_calibrated is for text data"]),
            ("fourier", ["modality=image"], ["fourier is for text data", "leave modality out"]),
            ("audit", ["modality=image"], ["audit is for text data", "leave modality out"]),
            ("potion,btu", [], ["a run has one kind of data; run them one after the other"]),
            ("potion,retrain,btu", [], ["a run has one kind of data"]),
            ("potion", ["dataset=cifar10"], ["images/cifar10"]),
            ("potion", ["modality=video"], ["modality is 'video'", "text, image"]),
            (
                "potion",
                ["discovered_share.rows=3", "discovered_share.ids=[1]"],
                ["discovered_share has rows and ids"],
            ),
        ],
    )
    def test_what_does_not_go_together(
        self, kedro_run, tmp_path, pipelines, params, expected
    ) -> None:
        options = ("--pipelines", pipelines) if pipelines else ()
        assert_one_clear_line(kedro_run(*params, options=options), *expected)
        assert not list((tmp_path / "data").glob("0*"))

    @pytest.mark.parametrize("pipeline", ["potion", "btu"])
    def test_data_of_another_modality(
        self, kedro_run, corpus, model_folder, tmp_path, pipeline
    ) -> None:
        path = tmp_path / "mine.parquet"
        (corpus.head(60) if pipeline == "potion" else make_images(n_train=60)).to_parquet(path)
        settings = [f"data={path}", "source.split_column=split", "label_mode=mix"]
        kind = "table" if pipeline == "potion" else "image_table"
        model = [f"model={model_folder()}"] if pipeline == "btu" else []
        options = ("--pipelines", pipeline, "--to-nodes", "train_victim")
        result = kedro_run(*settings, *model, f"dataset={kind}", options=options)
        assert_one_clear_line(result, "text", "image")

    def test_stages_on_their_own_are_those_of_the_modality(self, kedro_run, tmp_path) -> None:
        make_images(n_train=60).to_parquet(tmp_path / "mine.parquet")
        settings = (f"data={tmp_path / 'mine.parquet'}", "source.split_column=split")
        result = kedro_run("modality=image", *settings, options=("--pipelines", "ingest,poison"))
        assert result.exit_code == 0, result.output
        (poisoned,) = (tmp_path / "data").rglob("poisoned_train.parquet")
        assert poisoned.parent.name.startswith("mine_parquet.patch-0.10.s0-")

    def test_a_stage_is_that_of_each_runs_modality(self, kedro_run) -> None:
        node_of = {"text": "poison_train", "image": "poison_images"}
        for modality, other in (("image", "text"), ("text", "image"), ("image", "text")):
            options = ("--pipelines", "poison", "--nodes", node_of[other])
            result = kedro_run(f"modality={modality}", options=options)
            assert_one_clear_line(result, node_of[other], "kedro registry describe")

    def test_a_chosen_unlearner_makes_a_pipeline_that_runs(
        self, kedro_run, corpus, tmp_path
    ) -> None:
        corpus.to_csv(tmp_path / "mine.csv", index=False)
        settings = (f"data={tmp_path / 'mine.csv'}", "source.split_column=split", "unlearner=ssd")
        options = ("--pipelines", "btu", "--to-nodes", "ingest_examples")
        result = kedro_run(*settings, options=options)
        assert result.exit_code == 0, result.output
        assert list((tmp_path / "data").rglob("examples.parquet"))

    def test_recipes_of_one_modality_share_a_run(self, kedro_run, tmp_path) -> None:
        make_images(n_train=60).to_parquet(tmp_path / "mine.parquet")
        settings = (f"data={tmp_path / 'mine.parquet'}", "source.split_column=split")
        nodes = ("--pipelines", "potion,retrain", "--to-nodes", "poison_images")
        result = kedro_run(*settings, options=nodes)
        assert result.exit_code == 0, result.output
        (poisoned,) = (tmp_path / "data").rglob("poisoned_train.parquet")
        assert poisoned.parent.name.startswith("mine_parquet.patch-0.10.s0-")


@pytest.mark.parametrize("option", ["--nodes", "--from-nodes", "--to-nodes", "--tags"])
def test_unknown_nodes_and_tags(kedro_run, option) -> None:
    result = kedro_run(options=(option, "nonsense"))
    assert_one_clear_line(result, "nonsense", "kedro registry describe")


def test_unknown_environments(kedro_run) -> None:
    result = kedro_run(options=("--env", "smok"))
    assert_one_clear_line(result, "there is no environment 'smok'", "did you mean 'smoke'?")


def test_a_folder_without_parameters_is_no_environment(kedro_run) -> None:
    result = kedro_run(options=("--env", "base/grids"))
    assert_one_clear_line(result, "there is no environment 'base/grids'")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/no/such/model", "there is no such folder"),
        ("nobody/no-such-model", "neither a folder nor a packaged model"),
    ],
)
def test_bad_models_before_any_training(kedro_run, corpus, tmp_path, name, expected) -> None:
    data = tmp_path / "reviews.csv"
    corpus.to_csv(data, index=False)
    settings = (f"data={data}", "source.split_column=split", f"model={name}")
    result = kedro_run(*settings, options=("--pipelines", "ingest,poison,train"))
    assert_one_clear_line(result, name, expected)
    assert not (tmp_path / "data" / "06_models").exists()


class TestOutputFolder:
    def test_below_a_file(self, kedro_run, tmp_path) -> None:
        (tmp_path / "file").touch()
        result = kedro_run(data_dir=tmp_path / "file" / "data")
        assert_one_clear_line(result, "cannot write to", "data_dir")

    @pytest.mark.parametrize("used_before", [False, True])
    def test_read_only(self, kedro_run, tmp_path, used_before) -> None:
        folder = tmp_path / "disk"
        (folder / "data" / ".locks").mkdir(parents=True)
        if not used_before:
            (folder / "data" / ".locks").rmdir()
        mount = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("mounting a read-only folder needs root")
        try:
            if os.access(folder, os.W_OK):
                pytest.skip("this system ignores `ro` for bind mounts")
            result = kedro_run(data_dir=folder / "data")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        assert_one_clear_line(result, "cannot write to", "data_dir")

    def test_full(self, kedro_run, corpus, tmp_path) -> None:
        corpus.to_csv(tmp_path / "reviews.csv", index=False)
        (tmp_path / "disk").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(tmp_path / "disk")]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            result = kedro_run(
                f"data={tmp_path / 'reviews.csv'}",
                "source.split_column=split",
                options=("--pipelines", "ingest"),
                data_dir=tmp_path / "disk" / "data",
            )
            assert_one_clear_line(result, "cannot write", "No space left", "free some space")
            assert not list((tmp_path / "disk").rglob("examples.parquet*"))
            assert not list((tmp_path / "disk").rglob("*.part"))
        finally:
            subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


class TestFindInputError:
    def test_looks_behind_other_errors(self) -> None:
        try:
            try:
                raise InputError("the column 'text' is missing")
            except InputError as error:
                raise RuntimeError("loading failed") from error
        except RuntimeError as error:
            assert find_input_error(error) == "the column 'text' is missing"

    def test_a_defect_is_no_input_error(self) -> None:
        assert find_input_error(KeyError("x")) is None
