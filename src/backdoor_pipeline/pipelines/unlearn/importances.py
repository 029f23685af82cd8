"""How much each parameter of a model matters for some rows.

Sources: "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173 (XLF); "Loss-Free Machine
Unlearning", arXiv 2402.19308 (LF); "Fast Machine Unlearning Without Retraining Through Selective
Synaptic Dampening", arXiv 2308.07707 (SSD), and its adaptive form, arXiv 2402.10098 (ASSD). With f
the logits of a row,

    xlf   l = ||f||_2        I = mean |dl / dtheta|      needs no labels
    lf    l = ||f||_2^2      I = mean |dl / dtheta|      needs no labels
    ce    l = cross-entropy  I = mean (dl / dtheta)^2    SSD, ASSD

``batch``, as published: the mean goes over mini-batches, and l is the mean of one. Gradients of
rows that point against each other cancel, so that the batch size is part of the method.
``per_sample``, which is ours: the mean goes over rows. Nothing cancels, and a few hundred rows are
enough.

Departures, both of ``batch``: rows are not augmented, and texts of similar length share a batch, as
in training. The model is in evaluation mode.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import (
    ComputeParams,
    autocast,
    in_bf16,
    memory_of,
    out_of_memory,
    resolve_device,
)
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.training import Labelled

    Tensors = dict[str, torch.Tensor]

logger = logging.getLogger(__name__)

FLOAT_BYTES = 4
MEMORY_SHARE = 0.25  # of the device's, that gradients of single rows may take


class ImportanceParams(ParameterGroup):
    """What is measured, and on how many rows of a set."""

    quantity: Literal["xlf", "lf", "ce"]
    estimator: Literal["batch", "per_sample"]
    batch_size: PositiveInt
    rows: PositiveInt | None
    chunk: PositiveInt
    bf16: bool = False


def xlf(logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """||f||_2 of each row, (n_rows,)."""
    import torch

    return torch.linalg.vector_norm(logits, dim=1)


def lf(logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """||f||_2^2 of each row, (n_rows,)."""
    return logits.square().sum(dim=1)


def ce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row, in nats, (n_rows,)."""
    import torch

    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


QUANTITIES = {"xlf": xlf, "lf": lf, "ce": ce}


class Measured(NamedTuple):
    """Of each parameter, by its name: float32, of the parameter's shape, on the device.

    Attributes:
        importances: I.
        gradients: The mean of dl / dtheta, with its sign.
        largest: The largest of what I is the mean of.
        smallest: The smallest of it; 0 where a row does not need the parameter at all.
    """

    importances: Tensors
    gradients: Tensors
    largest: Tensors
    smallest: Tensors


def measure(
    bundle: Bundle,
    data: Labelled,
    params: ImportanceParams,
    compute: ComputeParams,
    seed: int,
    what: str = "importances",
) -> Measured:
    """How much each parameter matters, and in which direction.

    Args:
        bundle: The model; unchanged.
        data: The rows; ``params.rows`` of them are drawn, whatever their labels; None: all.
        params: ``batch_size`` is of ``batch`` alone. ``chunk`` rows are computed at once; by
            ``per_sample``, where each has a gradient of all parameters in memory, fewer if these
            are large. With ``bf16`` gradients are computed as ``compute`` says, else in float32;
            means are float32 anyway.
        compute: Device and precision.
        seed: Draws the rows and the batches.
        what: Is measured, for messages.

    Raises:
        InputError: There are no rows, or the gradients do not fit into memory.
    """
    import torch

    if not len(data.labels):
        raise InputError(f"{what}: there is no row to measure them on; flag fewer rows")
    rng = np.random.default_rng(seed)
    if params.rows is not None and params.rows < len(data.labels):
        data = data.take(np.sort(rng.choice(len(data.labels), params.rows, replace=False)))
    gradients = Gradients(bundle, data, params, compute)
    if params.estimator == "batch":
        batches, stacks_of = data.inputs.batches(params.batch_size, rng), gradients.of_mean
        n_gradients = len(batches)
    else:
        batches, stacks_of = data.inputs.batches(gradients.fitting), gradients.of_each
        n_gradients = len(data.labels)
    sizes, means, largest, smallest = (
        {
            name: torch.full_like(parameter, start, dtype=torch.float32)
            for name, parameter in gradients.parameters.items()
        }
        for start in (0.0, 0.0, 0.0, torch.inf)
    )
    was_training = bundle.model.training
    bundle.model.eval()
    for rows in track(batches, what):
        for stacks in stacks_of(rows):
            for name, stack in stacks.items():
                sized = stack.square() if params.quantity == "ce" else stack.abs()
                sizes[name] += sized.sum(dim=0, dtype=torch.float32) / n_gradients
                means[name] += stack.sum(dim=0, dtype=torch.float32) / n_gradients
                torch.maximum(largest[name], sized.amax(dim=0).float(), out=largest[name])
                torch.minimum(smallest[name], sized.amin(dim=0).float(), out=smallest[name])
    bundle.model.train(was_training)
    return Measured(sizes, means, largest, smallest)


class Gradients:
    """Gradients of a quantity by all parameters; the model's own ``grad`` stay as they are.

    Args:
        bundle: The model, which is moved to the device.
        data: What the row numbers below are of.
        params: Of the quantity, and how it is computed.
        compute: Device and precision.

    Attributes:
        parameters: By name; they share the model's memory.
        fitting: How many rows, ``chunk`` at most, have gradients that fit into memory together.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: Labelled,
        params: ImportanceParams,
        compute: ComputeParams,
    ) -> None:
        import torch

        self._data, self._chunk, self._quantity = data, params.chunk, QUANTITIES[params.quantity]
        exact = compute.model_copy(update={"precision": "fp32"})
        self._compute = compute if params.bf16 else exact
        self._device = resolve_device(compute)
        self._labels = torch.from_numpy(data.labels.astype(np.int64)).to(self._device)
        self._model = bundle.model.to(self._device)  # type: ignore[arg-type]
        self._together = True
        self.parameters = {name: p.detach() for name, p in self._model.named_parameters()}
        row_bytes = FLOAT_BYTES * sum(p.numel() for p in self.parameters.values())
        there = int(MEMORY_SHARE * memory_of(self._device))
        self.fitting = max(1, min(params.chunk, there // row_bytes))

    def of_mean(self, rows: np.ndarray) -> list[Tensors]:
        """That of the mean over ``rows``: a stack of one for each parameter, (1, *shape)."""
        import torch

        sums: Tensors = {}
        for start in range(0, len(rows), self._chunk):
            some = rows[start : start + self._chunk]
            batch = self._data.inputs.collate(some, self._device)
            parts = torch.func.grad(self._sum_in_autocast)(
                self.parameters, batch, self._labels[some]
            )
            sums = {name: sums[name] + part if sums else part for name, part in parts.items()}
        return [{name: total.unsqueeze(0) / len(rows) for name, total in sums.items()}]

    def of_each(self, rows: np.ndarray) -> list[Tensors]:
        """Those of the single ``rows``: stacks for some of them, (n_some, *shape), and others.

        Raises:
            InputError: They do not fit into memory together.
        """
        if self._together:
            try:
                return self._vectorised(rows)
            except Exception as error:  # what fails to be vectorised does so in many ways
                if out_of_memory(error):
                    fewer = f"importances.chunk to {len(rows) // 2}, or " * (len(rows) > 1)
                    raise InputError(
                        f"gradients of {len(rows)} rows at once do not fit into the memory of the "
                        f"device '{self._device}'; set {fewer}compute.device to 'cpu'"
                    ) from error
                self._together = False
                reason = str(error).partition("\n")[0][:200]
                logger.info("%s: one row at a time (%s)", type(self._model).__name__, reason)
        return [stacks for row in rows for stacks in self.of_mean(np.array([row]))]

    def _sum(self, tensors: Tensors, batch: Tensors, labels: torch.Tensor) -> torch.Tensor:
        """The quantity, summed over the rows of ``batch``, of the model with these ``tensors``."""
        import torch

        logits = torch.func.functional_call(self._model, tensors, kwargs=batch).logits
        return self._quantity(logits.float(), labels).sum()

    def _sum_in_autocast(self, *arguments: Any) -> torch.Tensor:
        with autocast(self._compute, self._device):
            return self._sum(*arguments)

    def _vectorised(self, rows: np.ndarray) -> list[Tensors]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # autocast cannot be vectorised: in bfloat16, tensors are cast here
        cast = _to_bf16 if in_bf16(self._compute, self._device) else dict
        batch = cast(self._data.inputs.collate(rows, self._device))
        weights, buffers = cast(self.parameters), cast(dict(self._model.named_buffers()))
        mask, labels = batch.pop("attention_mask", None), self._labels[rows]

        def gradients_of(some: torch.Tensor) -> Tensors:
            # models of transformers ask whether a mask is full, which they cannot while each row
            # has its own
            common = {} if mask is None else {"attention_mask": mask[some[:1]]}

            def of_one(parameters: Tensors, row: Tensors, label: torch.Tensor) -> torch.Tensor:
                one = {name: values.unsqueeze(0) for name, values in row.items()}
                return self._sum({**buffers, **parameters}, one | common, label.unsqueeze(0))

            own = {name: values[some] for name, values in batch.items()}
            each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0, 0))
            return each(weights, own, labels[some])

        kinds = torch.zeros_like(labels)
        if mask is not None:
            kinds = mask.unique(dim=0, return_inverse=True)[1]
        with sdpa_kernel(SDPBackend.MATH):  # the one that can be vectorised
            return [gradients_of((kinds == k).nonzero()[:, 0]) for k in kinds.unique()]


def _to_bf16(tensors: Tensors) -> Tensors:
    """With those of floats in bfloat16."""
    return {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
