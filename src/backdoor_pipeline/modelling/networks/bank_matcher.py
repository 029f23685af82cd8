"""A dual encoder whose images may be matched to captions that were seen before (RoCLIP)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import Module

from backdoor_pipeline.modelling.matching import matching_loss
from backdoor_pipeline.modelling.networks.matcher import features


class BankMatcher(Module):
    """A dual encoder whose images may be matched to vectors of a bank.

    Args:
        model: As of ``networks.matcher.Matcher``.
        bank: Unit vectors, (n, d), the oldest first.
    """

    bank: torch.Tensor

    def __init__(self, model: Any, bank: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("bank", bank)
        self.asks = False
        self.partners: torch.Tensor | None = None

    def forward(
        self, pixel_values: torch.Tensor, captions: torch.Tensor, **texts: torch.Tensor
    ) -> SimpleNamespace:
        """``logits``, (n, n): of each image to the partners of all; then the bank is renewed.

        ``partners`` are then the numbers of the partners, of a bank that was asked.
        """
        f, g = features(self.model, pixel_values, captions, **texts)
        self.partners = None
        others = g
        if self.asks:
            self.partners = (f.detach() @ self.bank.T).argmax(dim=1)
            others = self.bank[self.partners]
        if len(self.bank):
            self.bank = torch.cat([self.bank, g.detach()])[-len(self.bank) :]
        return SimpleNamespace(logits=self.model.logit_scale.exp() * f @ others.T)

    def loss(self, logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """That of ``matching``; who has the same partner shares the target."""
        return matching_loss(logits, captions if self.partners is None else self.partners)
