"""Which part of a mapping is learnt first: the low or the high frequencies.

Source: MuScleLoRA, arXiv 2402.12026, and its published code. With x_i the embedding-layer output of
text i, padded and flattened, d_ij = ||x_i - x_j||_2 and, for each filter width sigma,

    G_ij = exp(-d_ij / (2 sigma)),  rows normalised to sum 1,

a mapping h, of shape (n_texts, n_classes), parts into h_low = G h and h_high = h - h_low. For class
probabilities h and one-hot labels y,

    deviation of a part = mean_i ||h_part_i - y_part_i|| / mean_i ||y_part_i||
    ratio of a part     = mean_i ||h_part_i||            / mean_i ||h_i||

Departures from the published code: distances are computed in evaluation mode (there with dropout's
noise), and where y has nothing but rounding errors in a part (a triggered set, whose labels are all
the target, has no high part), the deviation is NaN instead of a division by about 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.device import ComputeParams, resolve_device
from backdoor_pipeline.modelling.embeddings import embedding_block
from backdoor_pipeline.modelling.text import Tokens

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle

ROUNDING = 1e-5
"""A part of the labels whose mean norm is smaller is taken for nothing (they are float32)."""


class Parts(NamedTuple):
    """Deviations and ratios for each filter width, shape (n_widths,)."""

    low_deviation: np.ndarray
    high_deviation: np.ndarray
    low_ratio: np.ndarray
    high_ratio: np.ndarray


def embedded(bundle: ModelBundle, tokens: Tokens, compute: ComputeParams) -> np.ndarray:
    """The embedding-layer outputs of texts, padded and flattened, shape (n_texts, length * hidden).

    Args:
        bundle: A model, of which the embedding layer alone is used, in evaluation mode.
        tokens: Of the texts; all are padded to the longest.
        compute: Where to compute.
    """
    import torch

    device = resolve_device(compute)
    model = bundle.model.to(device).eval()  # type: ignore[arg-type]
    batch = tokens.collate(np.arange(len(tokens)), device)
    with torch.inference_mode():
        states = embedding_block(model)(batch["input_ids"])
    return states.float().flatten(start_dim=1).cpu().numpy()


def distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances, float32, shape (n, n).

    Args:
        points: Shape (n, n_dimensions).
    """
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(points)).astype(np.float32)


def low_pass(distances: np.ndarray, width: float) -> np.ndarray:
    """The filter G of one width, float32, shape (n, n), rows of sum 1.

    Args:
        distances: Shape (n, n), 0 on the diagonal.
        width: sigma > 0, in units of distance.
    """
    kernel = np.exp(-distances / np.float32(2 * width))
    return kernel / kernel.sum(axis=1, keepdims=True)


def measure(
    probabilities: np.ndarray, labels: np.ndarray, distances: np.ndarray, widths: np.ndarray
) -> Parts:
    """How far each part of a mapping is from that of its labels, and how much of it is in it.

    The filters are built one after the other, so that memory holds one of them.

    Args:
        probabilities: h, shape (n, n_classes).
        labels: Class numbers, shape (n,).
        distances: Between the texts, shape (n, n).
        widths: Filter widths, shape (n_widths,).
    """
    y = np.eye(probabilities.shape[1], dtype=np.float32)[labels]
    both = np.hstack([probabilities.astype(np.float32), y])
    found = [_measure(both, low_pass(distances, width) @ both) for width in widths]
    return Parts(*np.array(found, dtype=np.float64).reshape(-1, len(Parts._fields)).T)


def _measure(both: np.ndarray, low: np.ndarray) -> list[float]:
    h, _ = np.hsplit(both, 2)
    (h_low, y_low), (h_high, y_high) = np.hsplit(low, 2), np.hsplit(both - low, 2)
    size = _mean_norm(h)
    deviations = [_deviation(h_low, y_low), _deviation(h_high, y_high)]
    return [*deviations, _mean_norm(h_low) / size, _mean_norm(h_high) / size]


def _deviation(h: np.ndarray, y: np.ndarray) -> float:
    size = _mean_norm(y)
    return _mean_norm(h - y) / size if size > ROUNDING else float("nan")


def _mean_norm(rows: np.ndarray) -> float:
    return float(np.linalg.norm(rows, axis=1).mean())
