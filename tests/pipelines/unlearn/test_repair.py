"""Which rows repair a model, and with what labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.pixels import Pixels, measured_format
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled
from backdoor_pipeline.pipelines.unlearn.repair import relabelled, trusted

CPU = ComputeParams(device="cpu", precision="fp32")
N_CLASSES = 4
SIZE = 12  # pixels of a side


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.dense = torch.nn.Linear(SIZE * SIZE, N_CLASSES, bias=False)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.dense(pixel_values.flatten(start_dim=1)))


def certain(n_rows: int) -> tuple[ImageBundle, Labelled]:
    """A model, and images with the labels that it predicts."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (n_rows, SIZE, SIZE, 1), dtype=np.uint8)
    bundle = ImageBundle(Linear(), measured_format(values))
    pixels = Pixels(values, bundle.image_format)
    return bundle, Labelled(pixels, predict(bundle, pixels, CPU).argmax(axis=1))


def test_what_now_has_another_label_than_the_discovered_is_not_trusted() -> None:
    bundle, rows = certain(40)
    predicted, given = rows.labels, rows.labels.copy()
    given[predicted == 3] = 0  # like undiscovered poison
    given[predicted == 2] = 1  # wrong labels of another kind
    left = trusted(bundle, rows._replace(labels=given), 0, CPU, seed=0)
    kept, n_poison = predicted != 3, int((predicted == 3).sum())
    assert 0 < n_poison < 40
    assert np.array_equal(left.labels[:-n_poison], given[kept])
    assert np.array_equal(left.inputs.values[:-n_poison], rows.inputs.values[kept])
    again = left.take(np.arange(40 - n_poison, 40))  # so that the label is as common as it was
    assert (again.labels == 0).all()
    assert (predict(bundle, again.inputs, CPU).argmax(axis=1) == 0).all()


def test_a_label_that_nothing_has_any_more_is_not_repeated() -> None:
    bundle, rows = certain(40)
    none = rows.take(np.flatnonzero(rows.labels != 0))
    given = np.where(none.labels == 3, 0, none.labels)
    left = trusted(bundle, none._replace(labels=given), 0, CPU, seed=0)
    assert np.array_equal(left.labels, given[given != 0])


def test_what_was_told_and_lost_its_label_is_repaired_with_its_new_one() -> None:
    bundle, rows = certain(16)
    given = rows.labels.copy()
    given[:5] = (given[:5] + 1) % N_CLASSES
    again = relabelled(bundle, rows._replace(labels=given), CPU)
    assert np.array_equal(again.labels, rows.labels[:5])
    assert np.array_equal(again.inputs.values, rows.inputs.values[:5])
