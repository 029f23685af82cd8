"""One model trained by many processes, on this host or on a cluster's, under Ray Train.

Each worker runs the very loop of ``training.fit``. The weights come back through Ray's object
store, so hosts need no shared disk; no worker knows of the run that asked for the model.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import resolve_device
from backdoor_pipeline.modelling.training import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import History, Labelled, OptimisationParams

RESTARTS = 2  # after a worker failed; the training then starts anew

logger = logging.getLogger(__name__)


def fit_on_workers(
    bundle: Bundle,
    train: Labelled,
    dev: Labelled | None,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
    what: str,
    num_workers: int,
) -> History:
    """Train ``bundle.model`` in place by ``num_workers`` processes; the history of the first.

    Where ``compute`` means CUDA, each has a GPU of its own, else they share the CPUs. Ray is used
    as it is where it runs already, else the cluster at ``RAY_ADDRESS`` is joined, else one is
    started on this host and stopped again.

    Raises:
        InputError: Ray is not installed, it has fewer CPUs or GPUs than workers, or as ``fit``.
    """
    try:
        import ray
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise InputError(
            f"training.num_workers is {num_workers}, which needs Ray ({error}); install it with "
            '`pip install "backdoor-pipeline[ray]"`, or set training.num_workers=1'
        ) from None
    import torch

    use_gpu = resolve_device(compute).type == "cuda"
    compute = compute.model_copy(update={"device": "cuda" if use_gpu else "cpu"})

    def work() -> str | tuple[History, dict[str, np.ndarray]]:
        model, *others = ray.get(inputs)
        try:
            history = fit(model, *others)
        except InputError as error:
            return str(error)  # raised here, it would be tried again
        return history, {k: v.cpu().numpy() for k, v in model.model.state_dict().items()}

    with _signals_kept(), tempfile.TemporaryDirectory() as folder, _ray() as logs:
        _check_places(num_workers, use_gpu)
        inputs = ray.put((bundle, train, dev, params, compute, seed, what))
        logger.info("%s: %d processes train it, their logs are in %s", what, num_workers, logs)
        result = TorchTrainer(
            work,
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=RESTARTS),
                worker_runtime_env={"env_vars": _environment(num_workers)},
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        ).fit()
        if isinstance(result.return_value, str):
            raise InputError(result.return_value)
        history, weights = result.return_value
        bundle.model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    bundle.model.eval()
    return history


@contextmanager
def _ray() -> Iterator[str]:
    """A connection to Ray, closed again if it was opened here; yields where Ray keeps its logs."""
    import ray

    opened = not ray.is_initialized()
    context = ray.init(
        os.environ.get("RAY_ADDRESS", "local"),
        ignore_reinit_error=True,
        include_dashboard=False,
        log_to_driver=False,  # Ray's own chatter would drown the workers' lines
        logging_level=logging.ERROR,
    )
    try:
        yield f"{context.address_info['session_dir']}/logs/train"
    finally:
        if opened:
            ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray's handlers of Ctrl-C and SIGTERM, which stop the workers, last no longer than this."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _check_places(num_workers: int, use_gpu: bool) -> None:
    """Nothing, if there is a place for every worker: Ray would wait for one without end."""
    import ray

    for kind in ("CPU", "GPU") if use_gpu else ("CPU",):
        there = int(ray.cluster_resources().get(kind, 0))
        if there < num_workers:
            raise InputError(
                f"training.num_workers is {num_workers}, but Ray has {there} {kind}s; lower it to "
                f"{max(there, 1)} or add hosts to the cluster"
            )


def python_path() -> str:
    """``PYTHONPATH`` with which Ray's workers find this package."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def _environment(num_workers: int) -> dict[str, str]:
    """Environment variables of a worker: where this package is, and its share of the threads."""
    import ray

    threads = max(1, int(ray.cluster_resources()["CPU"]) // num_workers)
    return {
        "PYTHONPATH": python_path(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
