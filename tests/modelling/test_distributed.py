"""Training under Ray Train: as without it, and what goes wrong is said or repaired."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import distributed
from backdoor_pipeline.modelling.distributed import fit_on_workers
from backdoor_pipeline.modelling.training import accuracy, fit
from backdoor_pipeline.pipelines.train.nodes import train_victim
from tiny import make_corpus
from train_in_processes import arguments, result

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def _environment(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


@pytest.fixture(scope="class")
def _ray_runs() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture
def task(model_folder):
    """What ``fit`` is called with: a new classifier, texts and settings."""
    return arguments(model_folder("distilbert"))  # it has dropout


def test_a_node_starts_ray_and_stops_it(base_model, model_params, compute, quick) -> None:
    import ray

    corpus = make_corpus(n_train=400, n_dev=20, n_test=0)
    train = corpus[corpus["split"] == "train"]
    params = quick.model_copy(update={"num_workers": 2})
    interrupt = signal.getsignal(signal.SIGINT)
    bundle, history = train_victim(train, corpus, base_model(), params, model_params(), compute, 0)
    assert len(history["loss"]["value"]) == 400 / 8 / 2
    assert all(p.isfinite().all() for p in bundle.model.parameters())
    assert not bundle.model.training
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGINT) is interrupt


@pytest.mark.usefixtures("_ray_runs")
class TestWhereRayRuns:
    def test_the_model_is_that_of_torchrun_even_if_a_worker_is_killed(
        self, task, torchrun_results, tmp_path, monkeypatch
    ) -> None:
        killed = tmp_path / "killed"

        def fit_once_in_vain(*args):
            if os.environ["RANK"] == "1" and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return fit(*args)

        monkeypatch.setattr(distributed, "fit", fit_once_in_vain)
        bundle, train, _, _, compute, _ = task
        history = fit_on_workers(*task, "victim", 2)
        assert killed.exists()
        assert accuracy(bundle, train, compute) > 0.9
        assert result(bundle, history) == torchrun_results["text"][0]

    def test_a_training_that_diverges_says_so(self, task) -> None:
        bundle, train, dev, params, *others = task
        reckless = params.model_copy(update={"learning_rate": 1e30})
        with pytest.raises(InputError, match=r"victim: the loss is nan .* lower its learning_rate"):
            fit_on_workers(bundle, train, dev, reckless, *others, "victim", 2)

    def test_more_workers_than_ray_has_places_for(self, task) -> None:
        with pytest.raises(InputError, match="num_workers is 3, but Ray has 2 CPUs; lower it to 2"):
            fit_on_workers(*task, "victim", 3)


def test_ray_is_not_installed(task, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install \"backdoor-pipeline\[ray\]\""):
        fit_on_workers(*task, "victim", 2)
