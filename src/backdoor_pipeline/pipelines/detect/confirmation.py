"""Tokens that the exposures raise and the association confirms: the rule of ``btu_calibrated``.

The exposures of BTU rank trigger tokens high, but they rank many ordinary words as high; the
association names inserted phrases, so the exposures may be read generously. A phrase is one
trigger: if the exposures raise one of its tokens, all of them are flagged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.parameter_group import ParameterGroup, Share

if TYPE_CHECKING:
    import pandas as pd


class ConfirmationParams(ParameterGroup):
    """How the two detectors are combined."""

    raised_share: Share


def confirm(
    drift: pd.DataFrame, association: pd.DataFrame, params: ConfirmationParams
) -> pd.DataFrame:
    """The association's suspects, flagged only where an exposure raised them too.

    Args:
        drift: Suspects of ``token_drift`` with ``rank_<round>``, 1 = moved furthest.
        association: Suspects of ``token_association`` with ``phrase``.
        params: ``raised_share`` of the ranked tokens is raised in each round.

    Returns:
        The columns of ``association``, then ``raised`` (by any exposure: the token, or for flagged
        ones another of their phrase) and the drift and rank of each round. Tokens that were not
        raised score 0 at most.
    """
    ranks = [column for column in drift.columns if column.startswith("rank_")]
    details = [column for column in drift.columns if column.startswith(("rank_", "drift_"))]
    n_raised = params.raised_share * len(drift)
    raised_keys = drift.loc[(drift[ranks] <= n_raised).any(axis=1), "key"]
    suspects = association.merge(drift[["key", *details]], on="key", how="left")
    raised = suspects["key"].isin(raised_keys)
    together = suspects["flagged"] & suspects["phrase"].ne("")
    phrases = suspects.loc[raised & together, "phrase"]
    raised |= together & suspects["phrase"].isin(phrases)
    suspects = suspects.assign(
        raised=raised,
        flagged=suspects["flagged"] & raised,
        score=suspects["score"].where(raised, suspects["score"].clip(upper=0.0)),
    )
    return suspects.sort_values(["score", "key"], ascending=[False, True], ignore_index=True)
