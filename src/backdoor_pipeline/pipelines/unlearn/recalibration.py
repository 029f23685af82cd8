"""A classifier that no longer leans towards the label of the rows with flagged tokens.

Rows with a trigger carry a false label, so a classifier trained on them leans towards the target
label even where there is no trigger, and overwriting the trigger's embedding does not take that
back. What remains of the training data once the rows with flagged tokens are set aside says how
frequent each label really is. So the biases of the labels that are more frequent among the rows set
aside are fitted to the remaining ones by maximum likelihood, everything else kept. They can only
fall: poison pushes towards its target, and a lean the other way is none of its doing. No clean rows
are used.

Source: ours. The bias term is that of bias-corrected temperature scaling (Alexandari, Kundaje and
Shrikumar, "Maximum likelihood with bias-corrected calibration", ICML 2020, section 4).
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt
from backdoor_pipeline.schemas import flagged_tokens

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

SMALLEST = 1e-12  # probability below which float32 tells nothing
FEWEST_ROWS = 200  # with fewer the bias follows chance; 50 may cost a point of accuracy
FEWEST_OF_A_LABEL = 20


class RecalibrationParams(ParameterGroup):
    """How many training rows the bias is fitted to."""

    rows: PositiveInt


def unlearn(
    bundle: ModelBundle,
    training: pd.DataFrame,
    suspects: pd.DataFrame,
    params: RecalibrationParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> ModelBundle:
    """A copy of ``bundle`` with a refitted bias; ``bundle`` itself where no token is flagged.

    Args:
        bundle: The classifier after its trigger tokens were overwritten; unchanged.
        training: The training rows: ``text``, ``label``.
        suspects: ``suspects`` table; only flagged rows of kind "token" are used.
        params: See ``conf/base/parameters_unlearn.yml``.
        max_length: Tokens per text, special tokens counted.
        compute: Device and precision.
        seed: Draws the rows.
    """
    import torch

    flagged = flagged_tokens(suspects)
    if not len(flagged):
        return bundle
    bias = output_bias(bundle.model)
    if bias is None:
        logger.warning("the classifier's last layer has no bias to recalibrate: it stays as it is")
        return bundle
    tokens = tokenise(training["text"], bundle.tokenizer, max_length)
    labels = training["label"].to_numpy()
    aside = np.isin(np.arange(len(tokens)), tokens.rows[np.isin(tokens.ids, flagged)])
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(~aside))[: params.rows]
    n_rows = np.bincount(labels[chosen], minlength=len(bias))
    share_aside = np.bincount(labels[aside], minlength=len(bias)) / max(aside.sum(), 1)
    suspicious = share_aside > n_rows / max(len(chosen), 1)
    if len(chosen) < FEWEST_ROWS or (n_rows[suspicious] < FEWEST_OF_A_LABEL).any():
        logger.warning(
            "too few training rows hold no flagged token (%d, %s of the labels in question): the "
            "bias of the classifier stays as it is",
            len(chosen),
            n_rows[suspicious].tolist(),
        )
        return bundle
    probabilities = predict(bundle, tokens.take(chosen), compute)
    shift = fit_bias(probabilities, labels[chosen], suspicious)
    logger.info("the bias of the labels is shifted by %s", np.round(shift, 3).tolist())
    model = copy.deepcopy(bundle.model)
    with torch.no_grad():
        output_bias(model).add_(  # type: ignore[union-attr]
            torch.tensor(shift, dtype=bias.dtype, device=bias.device)
        )
    return ModelBundle(model, bundle.tokenizer)


def output_bias(model: PreTrainedModel) -> torch.Tensor | None:
    """The bias of the last layer, shape (n_labels,); None where it has none (GPT-2, Llama)."""
    import torch

    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    return layers[-1].bias


def fit_bias(probabilities: np.ndarray, labels: np.ndarray, suspicious: np.ndarray) -> np.ndarray:
    """What to add to each logit so that ``labels`` become most likely: nothing above 0.

    Args:
        probabilities: Predicted ones, shape (n_rows, n_labels).
        labels: Given ones, shape (n_rows,).
        suspicious: Which logits may fall, bool, shape (n_labels,); the others stay.

    Returns:
        Shape (n_labels,).
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits = np.log(probabilities.astype(np.float64).clip(SMALLEST))
    shares = np.bincount(labels, minlength=logits.shape[1]) / len(labels)

    def loss(shift: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = log_softmax(logits + shift, axis=1)
        value = -shifted[np.arange(len(labels)), labels].mean()
        return value, np.exp(shifted).mean(axis=0) - shares

    bounds = [(None if may_fall else 0.0, 0.0) for may_fall in suspicious]
    return minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
