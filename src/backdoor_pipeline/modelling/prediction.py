"""Forward passes over many rows: class probabilities and text embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from backdoor_pipeline.modelling.bundle import Bundle, ModelBundle
    from backdoor_pipeline.modelling.inputs import Inputs
    from backdoor_pipeline.modelling.text import Tokens

BATCH_ROWS = 128  # rows per forward pass; results do not depend on it beyond rounding


def predict(
    bundle: Bundle,
    inputs: Inputs,
    compute: ComputeParams,
    batch_rows: int | None = None,
    before_batch: Callable[[], object] | None = None,
) -> np.ndarray:
    """Class probabilities, float32, shape (n_rows, n_classes), in the order of ``inputs``.

    ``batch_rows`` are computed at once, or ``BATCH_ROWS``: of few texts, small batches are sooner
    done, because they hold less padding. ``before_batch`` is called before each forward pass; it
    may end them by raising an error.
    """

    def probabilities(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return bundle.model(**batch).logits.float().softmax(dim=-1)

    settings = (compute, probabilities, "predict", batch_rows, before_batch)
    return forward(bundle, inputs, *settings).numpy()


def embed(
    bundle: ModelBundle,
    tokens: Tokens,
    compute: ComputeParams,
    before_batch: Callable[[], object] | None = None,
) -> np.ndarray:
    """Mean of the last hidden states over each text's tokens, float32, shape (n_texts, hidden).

    ``before_batch``: see ``predict``.
    """

    def mean_state(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        states = bundle.model.base_model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    settings = (compute, mean_state, "embed", None, before_batch)
    return forward(bundle, tokens, *settings).numpy()


def forward(
    bundle: Bundle,
    inputs: Inputs,
    compute: ComputeParams,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    what: str,
    batch_rows: int | None = None,
    before_batch: Callable[[], object] | None = None,
) -> torch.Tensor:
    """What ``function`` gives for each row, (n_rows, ...), on the CPU, in the order of ``inputs``.

    Args:
        bundle: Its model is in evaluation mode meanwhile.
        inputs: The rows.
        compute: Device and precision.
        function: Of a batch, as ``inputs`` collates it, (n_some, ...).
        what: It is, for the progress bar.
        batch_rows: Rows computed at once; None: ``BATCH_ROWS``.
        before_batch: Called before each batch.
    """
    import torch

    device = resolve_device(compute)
    model = bundle.model.to(device)  # type: ignore[arg-type]
    was_training = model.training
    model.eval()
    order, parts = [], []
    try:
        with torch.inference_mode(), autocast(compute, device):
            for rows in track(inputs.batches(batch_rows or BATCH_ROWS), what):
                if before_batch is not None:
                    before_batch()
                parts.append(function(inputs.collate(rows, device)))
                order.append(rows)
    finally:
        model.train(was_training)
    if not parts:
        return torch.empty((0, 0))
    stacked = torch.cat(parts).cpu()
    result = torch.empty_like(stacked)
    result[torch.from_numpy(np.concatenate(order))] = stacked
    return result
