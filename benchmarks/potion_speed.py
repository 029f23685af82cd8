"""How fast Potion is here, against its published form, and training on images against a plain loop.

    python benchmarks/potion_speed.py --victim FOLDER [--digits] [--rows N] [--repetitions N]

One victim on CIFAR-10 under $BACKDOOR_DATA (--data-dir), or on the packaged digits: base settings
of images, 1 % of the training rows with the patch, of which half are told. It is kept in FOLDER,
and so are its tables. What is compared takes turns, each in a process of its own, because a process
is faster once it has got memory before, and ratios are those within a turn. Leave the machine alone
meanwhile (CIFAR-10: about half an hour on two cores).

Unlearning, from decoded images to a model:

* ``plain``: arXiv 2406.09173 by its equations, each step as it stands there. Importances by
  ``loss.backward()`` over mini-batches of 512 of all rows, float32. In each try, a percentile over
  all parameters by ``numpy.percentile``, a deep copy of the model, and its accuracy on the rows to
  forget. The network's layers follow one another as published, normalisation after convolution.
  Importances and ratios are computed once, and images are normalised by batches. The published
  code also augments each image on its own, which takes longer and is left out.
* ``same``: ours with the same estimator, the same start and float32 throughout: like for like.
* ``same, bf16``: with gradients in bfloat16, which is not the same computation.
* ``default``: the recipe ``potion`` of the base settings, gradients of single rows of a few.

Training, one epoch with the accuracy on the dev rows after it: a plain loop in float32 with images
as channels, height, width; and ours in bfloat16. In batches of the base settings, and of 512, as
published.

Ratios are those of seconds by the clock (``wall``), of the seconds of all threads together
(``processor``), which other work on the machine disturbs less, and of ``importances`` alone (wall).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.experiments.records import machine
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams, has_fast_bf16, resolve_device
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.networks.resnet9 import Unit
from backdoor_pipeline.modelling.training import Labelled, fit, labelled
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect import discovered_share
from backdoor_pipeline.pipelines.unlearn import trigger_search
from backdoor_pipeline.pipelines.unlearn.suspicion import parted
from backdoor_pipeline.pipelines.unlearn.trigger_search import TriggerSearchParams
from potion_victims import ROOT, TABLES, TestRows, attack, loader, rates_of, test_rows
from timed_kedro import timed

SEED = 0
POISON_RATE, TOLD = 0.01, 0.5
BATCH_ROWS = 512
START, GROWTH, MAX_STEPS, RHO = 25, 1.1, 500, 0.2  # of the published search
PUBLISHED = {
    **{"start": "published", "growth": GROWTH, "max_steps": MAX_STEPS, "criterion": "accuracy"},
    **{"rho": RHO, "lowering": False, "balanced": False, "repair": None},
    **{"max_loss": None, "max_label_loss": None},
}
MADE_BY = ("ingest", "poison", "model", "training")
TRAININGS = ("plain fp32", "ours bf16")
RANKED: list[float] = []
"""Seconds that our importances took, the last ones last."""
WARM_UP_ROWS = 600  # more than one batch

Importances = dict[str, torch.Tensor]


class Setting(NamedTuple):
    """What is measured on.

    Attributes:
        victim: The model to unlearn.
        train: All training rows, as it was trained on them.
        dev: Clean rows.
        forget: The rows that the defender is told.
        retain: All other training rows.
        test: What judges a model.
    """

    victim: ImageBundle
    train: Labelled
    dev: Labelled
    forget: Labelled
    retain: Labelled
    test: TestRows


class Outcome(NamedTuple):
    """What came of an unlearning, and in what time."""

    bundle: ImageBundle
    record: dict[str, Any]
    seconds: dict[str, float]


def parameters(arguments: argparse.Namespace) -> Parameters:
    """The base settings of images with what the arguments change."""
    source = {"dataset": "mnist_digits" if arguments.digits else "cifar10"}
    if arguments.data_dir:
        source["folder"] = str(arguments.data_dir)
    changes = {
        "modality": "image",
        "source": source,
        "ingest": {"max_rows": arguments.rows},
        "poison": {"attack": "patch", "rate": POISON_RATE},
        "model": {"name": "resnet9", "width": arguments.width},
        "training": {"epochs": arguments.epochs},
        "discovered_share": {"share": TOLD},
        "seed": SEED,
    }
    return loader(**changes).typed_parameters


def prepared(folder: Path, p: Parameters) -> Setting:
    """The victim of ``folder``, trained and kept there if there is none, and its rows."""
    made_by = {name: getattr(p, name).model_dump(mode="json") for name in MADE_BY}
    made_by |= {"dataset": p.source.dataset, "seed": SEED}
    place, kept = folder / "settings.json", ClassifierDataset(filepath=str(folder / "victim"))
    if not place.exists():
        victim, tables = attack(p)
        kept.save(victim)
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False)
        write_json(place, made_by)
    elif json.loads(place.read_text(encoding="utf-8")) != made_by:
        sys.exit(f"{folder} holds the victim of other settings; give another folder")
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    victim, train = kept.load(), tables["poisoned_train"]
    ids = train["example_id"].to_numpy()
    suspects = discovered_share.detect(tables["poison_index"], ids, p.discovered_share, SEED)
    examples = tables["examples"]
    return Setting(
        victim,
        labelled(train, victim, 1),
        labelled(examples[examples["split"] == "dev"], victim, 1),
        *parted(train, suspects, victim, 1),
        test_rows(examples, tables["triggered_test"], victim),
    )


# The plain forms.


def plain_device() -> torch.device:
    """The GPU if there is one; memory is managed as the process does it by itself."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plain_network(model: Any) -> Any:
    """A copy of the ResNet-9, each layer of which is computed."""
    copied = copy.deepcopy(model)
    for layer in copied.modules():
        if isinstance(layer, Unit):
            layer.__class__ = torch.nn.Sequential
    return copied


def plain_pixels(data: Labelled, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Normalised images, float32, (n_rows, channels, height, width), stored in that order."""
    pixels: Any = data.inputs
    form = pixels.format
    mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (form.mean, form.std))
    values = torch.from_numpy(pixels.values[rows]).to(device)
    return (values.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std


def batches(n_rows: int, batch_rows: int, shuffled: bool) -> list[np.ndarray]:
    """Row numbers of every batch."""
    order = np.random.default_rng(SEED).permutation(n_rows) if shuffled else np.arange(n_rows)
    return [order[start : start + batch_rows] for start in range(0, n_rows, batch_rows)]


def plain_importances(model: Any, data: Labelled, device: torch.device) -> Importances:
    """XLF: mean over mini-batches of |d l / d theta|, l the mean norm of a row's logits."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    parts = batches(len(data.labels), BATCH_ROWS, shuffled=True)
    for rows in parts:
        model.zero_grad()
        logits = model(plain_pixels(data, rows, device)).logits
        torch.linalg.vector_norm(logits, dim=1).mean().backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad.abs()
    model.zero_grad()
    return {name: total / len(parts) for name, total in sums.items()}


def plain_accuracy(model: Any, data: Labelled, device: torch.device) -> float:
    """Share of rows whose label is predicted."""
    right = 0
    with torch.no_grad():
        for rows in batches(len(data.labels), BATCH_ROWS, shuffled=False):
            predicted = model(plain_pixels(data, rows, device)).logits.argmax(dim=1).cpu().numpy()
            right += int((predicted == data.labels[rows]).sum())
    return right / len(data.labels)


def plain_search(
    model: Any,
    forget: Labelled,
    forgotten: Importances,
    kept: Importances,
    share: float,
    rho: float,
    device: torch.device,
) -> tuple[Any, dict[str, Any]]:
    """PTN from the share s on: the model dampened, and what was done."""
    ratios = torch.cat([(forgotten[n] / kept[n]).flatten() for n in kept]).cpu().numpy()
    finite = ratios[np.isfinite(ratios)]
    before = plain_accuracy(model, forget, device)
    for step in range(1, MAX_STEPS + 1):
        place = 100 - math.log1p(100 * share)
        alpha, count = float(np.percentile(finite, place)), 0
        dampened = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in dampened.named_parameters():
                chosen = forgotten[name] > alpha * kept[name]
                beta = (kept[name] / forgotten[name]).clamp(max=1)
                parameter.copy_(torch.where(chosen, beta * parameter, parameter))
                count += int((chosen & (beta < 1)).sum())
        after = plain_accuracy(dampened, forget, device)
        record = {
            "converged": after <= rho * before,
            "steps": step,
            "percentile": place,
            "dampened_parameters": count,
            "forget_accuracy_before": before,
            "forget_accuracy_after": after,
        }
        if record["converged"]:
            break
        share *= GROWTH
    return dampened, record


def plain_unlearning(s: Setting, p: Parameters, rho: float) -> Outcome:
    """The published method, plainly."""
    device = plain_device()
    model = plain_network(s.victim.model)
    model.to(device).eval()
    share = len(s.forget.labels) / len(s.train.labels) / START
    start = now()
    kept, forgotten = (plain_importances(model, rows, device) for rows in (s.retain, s.forget))
    importances = {"importances": since(start)["wall"]}
    search = (s.forget, forgotten, kept, share, rho, device)
    dampened, record = plain_search(model, *search)
    seconds = since(start) | importances
    return Outcome(s.victim._replace(model=dampened), record, seconds)


def plain_epoch(bundle: ImageBundle, s: Setting, p: Parameters) -> None:
    """One epoch and the accuracy on the dev rows, plainly."""
    device, settings, model = plain_device(), p.training, plain_network(bundle.model)
    model.to(device).train()
    labels = torch.tensor(s.train.labels, device=device)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    for rows in batches(len(s.train.labels), settings.batch_size, shuffled=True):
        logits = model(plain_pixels(s.train, rows, device)).logits
        loss = torch.nn.functional.cross_entropy(logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    plain_accuracy(model.eval(), s.dev, device)


# Ours.


def our_unlearning(s: Setting, params: TriggerSearchParams, compute: ComputeParams) -> Outcome:
    """As the recipe does it."""
    start = now()
    unlearnt = trigger_search.unlearn(s.victim, s.forget, s.retain, params, compute, SEED)
    if not RANKED:
        sys.exit("the victim gives none of the told rows its label: train it longer, or on more")
    seconds = since(start) | {"importances": RANKED.pop()}
    return Outcome(unlearnt[0], unlearnt[1], seconds)


def our_epoch(bundle: ImageBundle, s: Setting, p: Parameters) -> None:
    """One epoch and the accuracy on the dev rows, by the training loop."""
    one = p.training.model_copy(update={"epochs": 1})
    fit(bundle, s.train, s.dev, one, in_precision("bf16", p), SEED)


def with_batches(n_rows: int, p: Parameters) -> Parameters:
    training = p.training.model_copy(update={"batch_size": n_rows})
    return p.model_copy(update={"training": training})


def in_precision(precision: str, p: Parameters) -> ComputeParams:
    return p.compute.model_copy(update={"precision": precision})


def unlearnings(p: Parameters, at_once: bool = False) -> dict[str, Callable[[Setting], Outcome]]:
    """By the names in the module's description; what Potion does not say is as in ``ssd``.

    With ``at_once`` their searches end at the first step.
    """
    end = {"rho": 1.0} if at_once else {}
    default = p.trigger_search.model_copy(update=end)
    importances = p.ssd.importances.model_copy(
        update={"quantity": "xlf", "estimator": "batch", "batch_size": BATCH_ROWS, "rows": None}
    )
    same = default.model_copy(update={"importances": importances, **PUBLISHED, **end})
    bf16 = {"importances": importances.model_copy(update={"bf16": True})}
    params = {
        "same": (same, in_precision("fp32", p)),
        "same, bf16": (same.model_copy(update=bf16), in_precision("bf16", p)),
        "default": (default, p.compute),
    }
    ours = {
        name: partial(our_unlearning, params=method, compute=compute)
        for name, (method, compute) in params.items()
    }
    return {"plain": partial(plain_unlearning, p=p, rho=end.get("rho", RHO)), **ours}


def trained(epoch: Callable[..., None], s: Setting, p: Parameters) -> dict[str, float]:
    """Seconds of an epoch of a new model."""
    n_classes = cast(Any, s.victim.model.config.num_labels)
    form = s.victim.image_format
    bundle = new_image_classifier(p.model.name, n_classes, form, p.model.width, SEED)
    start = now()
    epoch(bundle, s, p)
    return since(start)


def now() -> tuple[float, float]:
    """Seconds by the clock, once the device has done its work, and those of all threads."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> dict[str, float]:
    """Seconds from then, which ``now`` told, until now."""
    wall, processor = now()
    return {"wall": wall - start[0], "processor": processor - start[1]}


def faster(one: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float]:
    """How many times as long the one takes as the other, by what was measured."""
    turns = list(zip(one, other, strict=True))
    return {what: median(a[what] / b[what] for a, b in turns) for what in one[0]}


def middle(turns: list[dict[str, float]]) -> float:
    """Seconds by the clock."""
    return median(turn["wall"] for turn in turns)


def ways(p: Parameters) -> dict[str, Callable[[Setting], dict[str, float] | Outcome]]:
    """All that is measured, by name."""
    epochs = {
        name: partial(trained, epoch, p=with_batches(n_rows, p))
        for n_rows, names in pairs(p).items()
        for name, epoch in zip(names, (plain_epoch, our_epoch), strict=True)
    }
    return {**unlearnings(p), **epochs}


def pairs(p: Parameters) -> dict[int, list[str]]:
    """By rows of a batch the names of both trainings."""
    sizes = (p.training.batch_size, BATCH_ROWS)
    return {n_rows: [f"{name}, batches of {n_rows}" for name in TRAININGS] for n_rows in sizes}


def measured_once(name: str, s: Setting, p: Parameters) -> dict[str, Any]:
    """What one way takes, after a warm-up on a few rows, and what comes of it."""
    few = np.arange(min(WARM_UP_ROWS, len(s.retain.labels)))
    warm_up = s._replace(train=s.train.take(few), retain=s.retain.take(few), dev=s.forget)
    {**ways(p), **unlearnings(p, at_once=True)}[name](warm_up)
    made = ways(p)[name](s)
    if isinstance(made, dict):
        return {"seconds": made}
    rates = rates_of(made.bundle, test=s.test, compute=p.compute)
    parameters = torch.cat([x.detach().flatten().cpu() for x in made.bundle.model.parameters()])
    return {
        "seconds": made.seconds,
        "outcome": rates | made.record,
        "parameters": parameters.tolist(),
    }


def in_own_process(name: str) -> dict[str, Any]:
    """``measured_once`` by a new process with the arguments of this one."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "measured.json"
        own = ("--measure", name, "--out", str(place))
        subprocess.run([sys.executable, *sys.argv, *own], check=True, stdout=subprocess.DEVNULL)
        return json.loads(place.read_text(encoding="utf-8"))


def measure(s: Setting, p: Parameters, repetitions: int) -> dict[str, Any]:
    """Everything, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways(p)}
    for _ in range(repetitions):
        for name, turns in found.items():
            turns.append(in_own_process(name))
        print(
            *(f"{name} {turns[-1]['seconds']['wall']:.1f} s" for name, turns in found.items()),
            flush=True,
        )
    spent = {name: [turn["seconds"] for turn in turns] for name, turns in found.items()}
    plain, *ours = unlearnings(p)
    compared = [*((plain, name) for name in ours), *pairs(p).values()]
    last = {name: np.array(found[name][-1]["parameters"]) for name in (plain, "same")}
    return {
        **{f"{one} / {other}": faster(spent[one], spent[other]) for one, other in compared},
        "seconds": {name: middle(spent[name]) for name in (plain, *ours)},
        "training, examples a second": {
            name: len(s.train.labels) / middle(spent[name])
            for names in pairs(p).values()
            for name in names
        },
        "largest difference of a parameter, plain and same": float(
            np.abs(last[plain] - last["same"]).max()
        ),
        "victim": rates_of(s.victim, test=s.test, compute=p.compute),
        "outcome": {name: found[name][-1]["outcome"] for name in (plain, *ours)},
        "every measurement": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", action="store_true", help="the packaged digits: a small run")
    parser.add_argument("--data-dir", type=Path, help="root of the known sets")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows, at most")
    parser.add_argument("--width", type=float, default=0.5, help="of the network")
    parser.add_argument("--epochs", type=int, default=8, help="of the victim")
    parser.add_argument("--victim", type=Path, required=True, help="where it is kept")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--measure", metavar="WAY", help="nothing but this, once, by this process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/potion_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trigger_search.rank = timed(trigger_search.rank, RANKED)
    p = parameters(arguments)
    s = prepared(arguments.victim, p)
    if arguments.measure:
        write_json(arguments.out, measured_once(arguments.measure, s, p))
        return
    load = os.getloadavg()[0]
    device = resolve_device(p.compute)
    result = {
        "dataset": p.source.dataset,
        "training_rows": len(s.train.labels),
        "rows_to_forget": len(s.forget.labels),
        "test_rows": len(s.test.clean.labels),
        "network": p.model.name,
        "width": p.model.width,
        "parameters": s.victim.model.num_parameters(),
        "device": str(device),
        "fast_bf16": has_fast_bf16(device),
        "threads": arguments.threads,
        **measure(s, p, arguments.repetitions),
        "load before": load,
        "machine": machine(),
    }
    write_json(arguments.out, result)
    print(arguments.out.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
