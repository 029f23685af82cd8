"""Images with captions as a dual encoder reads them: each caption once, however many have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.inputs import where_of
from backdoor_pipeline.modelling.pixels import Pixels, decode
from backdoor_pipeline.modelling.text import Tokens, tokenise

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle


@dataclass(frozen=True)
class Pairs:
    """Images with a caption each; the ``Inputs`` of a ``networks.matcher.Matcher``.

    Attributes:
        images: All of them.
        texts: The captions, each once.
        captions: Which of ``texts`` is each image's, int64, shape (n_pairs,).
        states: What a frozen text tower makes of ``texts``, shape (n_texts, hidden); None: it is
            asked again for each batch.
    """

    images: Pixels
    texts: Tokens
    captions: np.ndarray
    states: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: np.ndarray) -> Pairs:
        """The pairs of these numbers, in this order."""
        return replace(self, images=self.images.take(rows), captions=self.captions[rows])

    def joined(self, others: Pairs) -> Pairs:
        """These pairs, then ``others``; what both have of captions stands twice.

        The ``states`` are joined likewise, where both have them.
        """
        import torch

        captions = np.concatenate([self.captions, others.captions + len(self.texts)])
        images, texts = self.images.joined(others.images), self.texts.joined(others.texts)
        if self.states is None or others.states is None:
            return Pairs(images, texts, captions)
        return Pairs(images, texts, captions, torch.cat([self.states, others.states]))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """As those of ``Pixels``."""
        return self.images.batches(batch_size, rng)

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """What ``Matcher.forward`` takes, for the pairs of these numbers."""
        import torch

        asked, captions = np.unique(self.captions[rows], return_inverse=True)
        if self.states is None:
            texts = self.texts.collate(asked, device)
        else:
            texts = {"text_states": self.states[asked].to(device)}
        images = self.images.collate(rows, device)
        return {**images, **texts, "captions": torch.from_numpy(captions).to(device)}


def read_pairs(bundle: PairBundle, rows: pd.DataFrame, max_length: int) -> Pairs:
    """The ``image`` and ``caption`` of ``rows``; captions of the same tokens are the same.

    Args:
        bundle: The dual encoder.
        rows: With their ``example_id``.
        max_length: Tokens per caption, special tokens counted.
    """
    form = bundle.image_format
    size = (form.height, form.width)
    values = decode(rows["image"].tolist(), where_of(rows), size, form.channels)
    texts, captions = read_captions(bundle, rows["caption"], max_length)
    return Pairs(Pixels(values, form), texts, captions)


def read_captions(
    bundle: PairBundle, captions: pd.Series, max_length: int
) -> tuple[Tokens, np.ndarray]:
    """The captions, each once, and which of them is each row's, int64, (n_rows,).

    Captions of the same tokens are the same.

    Args:
        bundle: The dual encoder.
        captions: Of the rows.
        max_length: Tokens per caption, special tokens counted.
    """
    of_row, distinct = pd.factorize(captions)
    texts = tokenise(distinct, bundle.tokenizer, max_length)
    of_text, first = pd.factorize(pd.Series([texts[i].tobytes() for i in range(len(texts))]))
    firsts = np.unique(of_text, return_index=True)[1] if len(first) else np.empty(0, dtype=int)
    numbers = of_text[of_row] if len(of_row) else np.empty(0, dtype=int)
    return texts.take(firsts), numbers.astype(np.int64)
