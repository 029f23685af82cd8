"""The part of a model that is trained, apart from the layers before it, which are frozen.

In evaluation mode these give the same for the same image however often it is read. So they are
computed once, and what is trained reads what they gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import host_memory
from backdoor_pipeline.modelling.pixels import image_batches
from backdoor_pipeline.modelling.prediction import forward
from backdoor_pipeline.modelling.training import Labelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.inputs import Inputs

MEMORY_SHARE = 0.1  # of the machine's; while they are made and taken, there are up to four copies


@dataclass(frozen=True)
class States:
    """What the layers of a network gave for images; the ``Inputs`` of those after them.

    Attributes:
        values: Shape (n_images, height, width, channels).
    """

    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> States:
        """Those of the images of these numbers, in this order."""
        return States(self.values[rows])

    def joined(self, others: States) -> States:
        """These, then ``others``."""
        import torch

        return States(torch.cat([self.values, others.values]))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """As those of ``Pixels``."""
        return image_batches(len(self), batch_size, rng)

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """``pixel_values``, shape (n_images, channels, height, width), channels last."""
        return {"pixel_values": self.values[rows].to(device).permute(0, 3, 1, 2)}


def trained_part(
    bundle: Bundle, data: Sequence[Labelled], compute: ComputeParams
) -> tuple[Bundle, list[Labelled]]:
    """The layers of the model from the first one that is trained on, and what they read of data.

    They share their parameters with ``bundle.model``. A model whose layers do not follow one
    another (see ``networks.sequential``) is returned as it is, with ``data``; so is one that makes
    more of the images than ``MEMORY_SHARE`` of the machine's memory.

    Args:
        bundle: A model, some of whose parameters require gradients; it is in evaluation mode
            whenever the part is used.
        data: Sets of rows.
        compute: Device and precision.
    """
    from backdoor_pipeline.modelling.networks.sequential import SequentialClassifier

    model = bundle.model
    if not isinstance(bundle, ImageBundle) or not isinstance(model, SequentialClassifier):
        return bundle, list(data)
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in model.features]
    n_frozen = trained.index(True) if True in trained else len(trained)
    frozen = model.features[:n_frozen]

    def states(rows: Inputs) -> torch.Tensor:
        def of_batch(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return frozen(batch["pixel_values"]).permute(0, 2, 3, 1)

        return forward(bundle, rows, compute, of_batch, "predict")

    row_bytes = states(data[0].inputs.take(np.arange(1))).nbytes
    if sum(len(rows.labels) for rows in data) * row_bytes > MEMORY_SHARE * host_memory():
        return bundle, list(data)
    return bundle._replace(model=model.without_first(n_frozen)), [
        Labelled(States(states(rows.inputs)), rows.labels) for rows in data
    ]
