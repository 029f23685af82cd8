"""What is known of a run before it starts."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.hooks import run_facts
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.pipeline_registry import register_pipelines


class TestUsedParameters:
    def test_a_recipe_uses_its_own_groups(self, make_parameters) -> None:
        used = run_facts.used_parameters(register_pipelines()["btu"], make_parameters())
        assert {"seed", "poison.rate", "training.epochs", "source.dataset"} <= used.keys()
        groups = {name.split(".")[0] for name in used}
        assert "token_drift" in groups
        assert "token_association" not in groups
        assert not groups & {"tracking", "fresh", "data_dir"}

    def test_only_the_chosen_attack(self, make_parameters) -> None:
        pipeline = register_pipelines()["poison"]
        for attack, other in (("addsent", "badnets"), ("badnets", "addsent")):
            parameters = make_parameters(**{"poison.attack": attack})
            used = run_facts.used_parameters(pipeline, parameters)
            assert used["poison.attack"] == attack
            assert [name for name in used if name.startswith(f"poison.{attack}.")]
            assert not [name for name in used if name.startswith(f"poison.{other}.")]

    def test_part_of_a_group_stands_for_the_group(self, make_parameters) -> None:
        node = Node(lambda length: length, "params:model.max_length", "x", name="n")
        used = run_facts.used_parameters(Pipeline([node]), make_parameters())
        assert used.keys() == {f"model.{name}" for name in ModelParams.model_fields}
        assert "model.max_length" in used


class TestKedroCommand:
    @pytest.mark.parametrize(
        ("run_params", "command"),
        [
            ({}, "kedro run"),
            ({"pipeline_names": ["a", "b"], "env": "gpu"}, "kedro run --pipelines a,b --env gpu"),
            (
                {"runtime_params": {"seed": 3, "poison": {"rate": 0.1}}, "from_nodes": ["x"]},
                "kedro run --from-nodes x --params seed=3,poison.rate=0.1",
            ),
            ({"runtime_params": {"data": "a b.csv"}}, "kedro run --params 'data=a b.csv'"),
        ],
    )
    def test_can_be_typed_again(self, run_params, command) -> None:
        assert run_facts.kedro_command(run_params) == command

    def test_speaks_kedros_own_language(self) -> None:
        from kedro.framework.cli.project import run

        words = shlex.split(
            run_facts.kedro_command({name: "x" for name in run_facts.OPTIONS if name != "env"})
        )
        known = {option for parameter in run.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--env"}


class TestGitState:
    def test_a_clean_and_a_changed_checkout(self, tmp_path) -> None:
        def git(*arguments: str) -> None:
            identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
            subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

        (tmp_path / "a.txt").write_text("a")
        git("init", "--quiet")
        git("add", ".")
        git("commit", "--quiet", "-m", "a")
        state = run_facts.git_state(tmp_path)
        assert len(state["git_commit"]) == 40
        assert state["git_dirty"] is False
        (tmp_path / "a.txt").write_text("b")
        assert run_facts.git_state(tmp_path)["git_dirty"] is True

    def test_outside_a_checkout(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert run_facts.git_state(tmp_path) == {}

    def test_without_git(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert run_facts.git_state(tmp_path) == {}


def test_an_unreadable_source_is_left_to_the_ingest_stage(make_parameters) -> None:
    parameters = make_parameters(**{"source.dataset": "no_such_set"})
    assert run_facts.data_digest(parameters.source) == "unreadable"


def test_a_control_run_has_no_attack(make_parameters, tmp_path) -> None:
    parameters = make_parameters(**{"poison.rate": 0})
    tags = run_facts.origin(register_pipelines()["btu"], parameters, {}, tmp_path)
    assert tags["attack"] == "none"
    assert tags["recipe"] == "btu"
