"""Floors, no circles: who imports whom, who sees the ground truth, and what is never done."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pandas as pd
import pytest

from backdoor_pipeline.schemas import GROUND_TRUTH
from tiny import ROOT, make_images

SOURCE = ROOT / "src" / "backdoor_pipeline"
STAGES = sorted(folder.name for folder in (SOURCE / "pipelines").glob("[!_]*/"))
TABLES = ("statistics", "leaderboard", "comparison", "leaderboard_figures", "exports")
GROUND = {
    "schemas",
    "errors",
    "formatting",
    "presentation",
    "parameter_group",
    "exact_tests",
    "intervals",
}
WIRING = {"pipeline", "__init__"}  # the modules of a stage that know Kedro
SEES_THE_TRUTH = {"evaluate", "report", "poison"}  # poison makes it
TOLD = "discovered_share"  # the detector that plays a defender who was told a part of the poison
HOLD_THE_TRUTH = {"poison_index", "poison_summary", "triggered_test"}
HEAVY = {"kedro", "mlflow", "torch", "transformers", "peft", "sklearn", "scipy", "statsmodels"}
LAYERS = "modelling.networks."  # layers of torch, which are imported where they are needed


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below ``backdoor_pipeline``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(tree: ast.AST, deferred: bool = True) -> set[str]:
    """What a module imports; without ``deferred``, only what its own import pulls in."""
    found: set[str] = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        if not deferred and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ):
            continue
        todo.extend(ast.iter_child_nodes(node))
    return found


def own(names: set[str]) -> set[str]:
    prefix = "backdoor_pipeline."
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def methods() -> list[str]:
    """All modules of the stages but their wiring, and the ground they stand on."""
    return [
        name
        for name in modules()
        if (name.startswith("pipelines.") and name.split(".")[-1] not in WIRING)
        or name.startswith("modelling.")
        or name in GROUND
        or name in {f"experiments.{table}" for table in TABLES}
    ]


def fresh_interpreter(program: str) -> str:
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", methods())
def test_methods_know_neither_kedro_nor_mlflow(name) -> None:
    packages = {imported.partition(".")[0] for imported in imports(modules()[name])}
    assert not packages & {"kedro", "mlflow", "kedro_datasets"}


@pytest.mark.parametrize("name", [name for name in methods() if not name.startswith(LAYERS)])
def test_methods_import_heavy_packages_late(name) -> None:
    early = {i.partition(".")[0] for i in imports(modules()[name], deferred=False)}
    assert not early & HEAVY


def test_methods_do_not_reach_them_through_others_either() -> None:
    names = [
        f"backdoor_pipeline.{name.removesuffix('.__init__')}"
        for name in methods()
        if not name.startswith(LAYERS)
    ]
    program = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    found = {{m.partition('.')[0] for m in sys.modules}} & {HEAVY!r}
    if found:
        sys.exit(f'{{name}} brings {{found}}')
"""
    fresh_interpreter(program)


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage) -> None:
    for name, tree in modules().items():
        if name.startswith(f"pipelines.{stage}."):
            stages = {i.split(".")[1] for i in own(imports(tree)) if i.startswith("pipelines.")}
            assert stages <= {stage}, name


def test_arrows_run_one_way() -> None:
    above = {  # what a floor must not import
        "schemas": ("modelling", "datasets", "pipelines", "hooks"),
        "formatting": ("schemas", "modelling", "datasets", "pipelines", "hooks"),
        "presentation": ("schemas", "modelling", "datasets", "pipelines", "hooks"),
        "exact_tests": ("schemas", "modelling", "datasets", "pipelines", "hooks", "experiments"),
        "errors": ("schemas", "modelling", "datasets", "pipelines", "hooks"),
        "modelling": ("datasets", "pipelines", "hooks", "keys", "parameters", "configuration"),
        "datasets": ("pipelines", "hooks", "keys", "parameters", "configuration"),
        "pipelines": ("hooks", "keys", "parameters", "configuration", "pipeline_registry"),
        "experiments": ("pipelines", "pipeline_registry"),
        "recipes": ("pipelines", "hooks", "keys", "parameters", "configuration"),
        "parameters": ("hooks", "keys", "configuration", "pipeline_registry"),
    }
    for name, tree in modules().items():
        floor = name.partition(".")[0]
        for imported in own(imports(tree)):
            assert imported.partition(".")[0] not in above.get(floor, ()), f"{name}: {imported}"


def test_only_the_registry_and_the_front_doors_import_stages() -> None:
    doors = {"pipeline_registry", "parameters"}
    importing = {
        name
        for name, tree in modules().items()
        if not name.startswith("pipelines.")
        and any(i.startswith("pipelines.") for i in own(imports(tree)))
    }
    assert importing <= doors


def test_nothing_but_the_command_line_knows_of_experiments() -> None:
    for name, tree in modules().items():
        if name != "cli" and not name.startswith("experiments."):
            assert not [i for i in own(imports(tree)) if i.startswith("experiments")], name


def test_ray_is_imported_late_and_by_those_alone_who_start_it() -> None:
    using = {
        name
        for name, tree in modules().items()
        if {i.partition(".")[0] for i in imports(tree)} & {"ray"}
    }
    assert using == {"experiments.executors", "modelling.distributed"}
    for name in using:
        early = {i.partition(".")[0] for i in imports(modules()[name], deferred=False)}
        assert "ray" not in early


def test_no_import_runs_in_circles() -> None:
    graph = {
        name: {i for i in own(imports(tree, deferred=False)) if i in modules()}
        for name, tree in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def detected(there: dict[str, Any], parameters: Any, model: Any, compute: Any) -> dict[str, Any]:
    """The suspects of every detector of texts but the one that is told, by its name."""
    from backdoor_pipeline.pipelines.detect.nodes import DETECTORS
    from backdoor_pipeline.recipes import WORK_ON

    there = there | {f"params:{name}": getattr(parameters, name) for name in DETECTORS}
    there |= {"params:model": model, "params:compute": compute, "params:seed": 0}
    found = {}
    for name, detector in DETECTORS.items():
        if name == TOLD or name not in WORK_ON["text"]:
            continue
        found[name], _ = detector.function(*(there[read] for read in detector.inputs))
        there[f"{name}_suspects"] = found[name]
    return found


class TestGroundTruth:
    def test_only_evaluation_and_report_name_its_columns(self) -> None:
        for name, tree in modules().items():
            if name == "schemas" or name.split(".")[1:2] in [[s] for s in SEES_THE_TRUTH]:
                continue
            named = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            named |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            named |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword)}
            hidden = {"is_poisoned", "source_label", "GROUND_TRUTH"}
            if name != "parameters":  # a shorthand of the command line is called trigger
                hidden |= {"trigger"}
            assert not named & hidden, name

    def test_one_detector_alone_is_told_and_no_other_method(self) -> None:
        from backdoor_pipeline.pipeline_registry import register_pipelines

        told = set()
        for pipeline in register_pipelines().values():
            for node in pipeline.nodes:
                if node.func.__module__.split(".")[2] in {"ingest", "train", "detect", "unlearn"}:
                    told |= {(node.name, name) for name in HOLD_THE_TRUTH & set(node.inputs)}
        assert told == {(f"detect_{TOLD}", "poison_index")}

    def test_who_is_told_takes_nothing_from_the_training_rows_but_their_ids(
        self, corpus, make_parameters
    ) -> None:
        from backdoor_pipeline.pipelines.detect.nodes import DETECTORS

        training = corpus[corpus["split"] == "train"].head(50)
        index = training.head(10)[["example_id"]]
        settings = (make_parameters().discovered_share, 0)
        tell = DETECTORS[TOLD].function
        suspects, _ = tell(index, training[["example_id"]], *settings)
        marked = training.assign(is_poisoned=False, source_label=0, trigger="film")
        pd.testing.assert_frame_equal(suspects, tell(index, marked, *settings)[0])
        assert set(suspects["key"]) < set(index["example_id"])  # a part, not all

    def test_detectors_do_without_them(
        self, corpus, base_model, model_params, compute, make_parameters
    ) -> None:
        training = corpus[corpus["split"] == "train"].head(200)
        assert not set(GROUND_TRUTH) & set(training)
        there = {"examples": corpus, "base_model": base_model()}
        detected(there | {"poisoned_train": training}, make_parameters(), model_params(), compute)

    def test_detectors_cannot_tell_when_they_are_there(
        self, corpus, base_model, model_params, compute, make_parameters
    ) -> None:
        training = corpus[corpus["split"] == "train"].head(200)
        marked = training.assign(is_poisoned=training["label"] == 1, source_label=0, trigger="film")
        there = {"examples": corpus, "base_model": base_model()}
        settings = (make_parameters(), model_params(), compute)
        without, with_truth = (
            detected(there | {"poisoned_train": train}, *settings) for train in (training, marked)
        )
        for name, suspects in without.items():
            pd.testing.assert_frame_equal(suspects, with_truth[name])

    def test_training_does_without_them(
        self, corpus, base_model, model_params, compute, quick
    ) -> None:
        import torch

        from backdoor_pipeline.pipelines.train.nodes import train_victim

        training = corpus[corpus["split"] == "train"].head(64)
        marked = training.assign(is_poisoned=True, source_label=0, trigger="film")
        settings = (corpus, base_model(), quick, model_params(), compute, 0)
        first, second = (train_victim(table, *settings)[0] for table in (training, marked))
        assert torch.equal(first.model.classifier.weight, second.model.classifier.weight)

    def test_methods_for_images_cannot_tell_when_they_are_there(
        self, make_parameters, compute
    ) -> None:
        import torch

        from backdoor_pipeline.pipelines.train.nodes import train_image_victim
        from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
        from backdoor_pipeline.recipes import RECIPES

        short = ("training", "retraining.optimisation", "continued_training.optimisation")
        short += ("scrub.optimisation", "bad_teaching.optimisation")
        changes = {f"{group}.epochs": 1 for group in short} | {"model.width": 0.0625}
        parameters = make_parameters(modality="image", **changes)
        examples = make_images(n_train=64, n_dev=8, n_test=0)
        training = examples[examples["split"] == "train"]
        marked = training.assign(is_poisoned=training["label"] == 1, source_label=0, trigger="x")
        victims = [
            train_image_victim(table, examples, parameters.training, parameters.model, compute, 0)
            for table in (training, marked)
        ]
        made = {"victim": [victim for victim, _ in victims]}
        there = {f"params:{name}": value for name, value in parameters}
        there |= {"params:compute": compute}
        there["suspects"] = pd.DataFrame({"kind": "example", "key": [1, 2, 3], "flagged": True})
        for name in {n for r in RECIPES.values() if r.modality == "image" for n in r.unlearners}:
            made[name] = []
            for table in (training, marked):
                tables = there | {"poisoned_train": table}
                inputs = [tables[read] for read in UNLEARNERS[name].inputs]
                made[name].append(UNLEARNERS[name].function(made["victim"][0], *inputs)[0])
        for name, (one, other) in made.items():
            pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), name


class TestUntrustedFiles:
    def test_nothing_is_unpickled(self) -> None:
        for name, tree in modules().items():
            packages = {i.partition(".")[0] for i in imports(tree)}
            assert not packages & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, name
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    called = f"{node.value.id}.{node.attr}"
                    assert called not in {"torch.load", "pd.read_pickle", "np.load"}, name

    def test_no_code_of_others_is_trusted_and_none_evaluated(self) -> None:
        for name, tree in modules().items():
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                for keyword in node.keywords:
                    if keyword.arg in {"trust_remote_code", "allow_pickle"}:
                        assert getattr(keyword.value, "value", True) is False, name
                called = getattr(node.func, "id", "")
                assert called not in {"eval", "exec", "__import__"}, name


def test_the_command_line_starts_without_torch() -> None:
    loaded = fresh_interpreter(
        "import sys, backdoor_pipeline.cli, backdoor_pipeline.settings, "
        "backdoor_pipeline.pipeline_registry as r; r.register_pipelines(); "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    ).split()
    assert not {"torch", "transformers", "sklearn", "plotly", "mlflow", "ray"} & set(loaded)


def test_no_global_seed_is_set() -> None:
    for name, tree in modules().items():
        calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        assert not {"np.random.seed", "random.seed", "torch.use_deterministic_algorithms"} & set(
            calls
        ), name
        if "torch.manual_seed" in calls:
            assert "torch.random.fork_rng" in calls, name
