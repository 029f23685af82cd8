"""SynBkd (Hidden Killer): a fixed syntactic template as trigger (Qi et al., arXiv 2105.12400).

Works with ready-made paraphrases only: the paraphraser (SCPN) is no part of this project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.pipelines.poison.paraphrasing import replace

if TYPE_CHECKING:
    import numpy as np


class SynBkdParams(ParameterGroup):
    """Nothing to choose: the paraphrases carry the template."""


def trigger(
    text: str, paraphrase: str | None, params: SynBkdParams, rng: np.random.Generator
) -> tuple[str, str]:
    """The text in the trigger's syntax, and the trigger's name."""
    return replace(text, paraphrase, "syntax: template")
