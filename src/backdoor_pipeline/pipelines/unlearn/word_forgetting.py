"""A classifier of texts that forgets what ties the telling words of suspected rows to their label.

Source: ours, the idea of UBT (arXiv 2403.16257, see ``local_forgetting``) carried over to texts:
what is unlearnt is local, a few words of few rows, whatever text they stand in. With z_y the
log-odds of label y under the victim p or the model theta, and x + t a text with words t put in,

    delta_ij = z_y(x_i) - z_y(x_i without token j), under p: how much token j of row i is blamed
    t_i      = the ``tokens`` most blamed tokens of the suspected row i, in their order
    L_u      = mean over suspects i and rows a to keep of other labels of
               max(z_y_i(x_a + t_i; theta) - z_y_i(x_a; p), 0)
    L_k      = mean over rows a to keep of ||logits(x_a; theta) - logits(x_a; p)||^2
    L        = L_u + keep_weight L_k

The words stand together at a random place of the text. The hinge is at what the victim says of the
text without them. Rows to keep may be poisoned themselves: L_k ties the model to what the victim
says of them, so that ``keep_rows`` are best those that a detector leaves.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.prediction import forward
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import Tokens, end_to_end, token_counts
from backdoor_pipeline.modelling.training import (
    OptimisationParams,
    clip_gradients,
    descend,
    new_optimiser,
)
from backdoor_pipeline.parameter_group import NonNegativeFloat, ParameterGroup, PositiveInt

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.inputs import Inputs
    from backdoor_pipeline.modelling.training import Labelled


class WordForgettingParams(ParameterGroup):
    """Which words, and how they are forgotten.

    Attributes:
        tokens: Of a suspected row, at most.
        forget_rows: Suspected rows, at most, drawn.
        keep_rows: Other rows, at most, drawn.
        keep_weight: Of L_k.
        steps: As many.
        optimisation: ``batch_size`` rows to keep with the words of a suspect each, and as many as
            they are; ``epochs`` are of no meaning.
    """

    tokens: PositiveInt
    forget_rows: PositiveInt
    keep_rows: PositiveInt
    keep_weight: NonNegativeFloat
    steps: PositiveInt
    optimisation: OptimisationParams


def unlearn(
    bundle: ModelBundle,
    forget: Labelled,
    retain: Labelled,
    params: WordForgettingParams,
    compute: ComputeParams,
    max_length: int,
    seed: int,
) -> tuple[ModelBundle, dict[str, Any]]:
    """A copy of ``bundle`` without the tie; ``bundle`` itself where there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The suspected rows.
        retain: All others.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        max_length: Tokens per text; a text gives way at its end.
        seed: Draws rows, places and batches.

    Returns:
        The model; ``forget_rows``, ``keep_rows``, ``tokens``, the blamed ones, the commonest first,
        and ``token_rows``, how many suspected rows are to forget each; ``excess_before`` and
        ``_after``, L_u of the first and the last step.

    Raises:
        InputError: There is no other row, or the training diverged.
    """
    import torch

    if not len(forget.labels):
        return bundle, {"forget_rows": 0, "keep_rows": 0, "dev_rows": 0}
    rng = np.random.default_rng(seed)
    forget, keep = (
        data.take(np.sort(rng.permutation(len(data.labels))[:n]))
        for data, n in ((forget, params.forget_rows), (retain, params.keep_rows))
    )
    words = blamed(bundle, forget, params.tokens, compute)
    before = logits_of(bundle, keep.inputs, compute)
    by_label = {int(y): np.flatnonzero(keep.labels != y) for y in np.unique(forget.labels)}
    if not all(map(len, by_label.values())):
        raise InputError(
            "word_forgetting needs rows that are not suspected, of other labels than the "
            "suspects'; let the detector flag fewer rows"
        )
    device = resolve_device(compute)
    model: Any = copy.deepcopy(bundle.model)
    model.to(device).eval()
    optimiser = new_optimiser(model, params.optimisation, device)
    clip = partial(clip_gradients, model, params.optimisation)
    before = before.to(device)
    excesses: list[float] = []

    def loss_of(rows: Any) -> torch.Tensor:
        texts, suspects, kept = rows
        joined = with_words(keep.inputs, texts, words, suspects, max_length, rng)
        labels = torch.from_numpy(forget.labels[suspects].astype(np.int64)).to(device)
        with autocast(compute, device):
            told = model(**joined.collate(np.arange(len(texts)), device)).logits.float()
            plain = model(**keep.inputs.collate(kept, device)).logits.float()
        above = log_odds(told, labels) - log_odds(before[texts], labels)
        excess = above.relu().mean()
        excesses.append(float(excess.detach()))
        drift = (plain - before[kept]).square().sum(dim=1).mean()
        return excess + params.keep_weight * drift

    for _ in track(range(params.steps), "forget words"):
        suspects = rng.integers(len(forget.labels), size=params.optimisation.batch_size)
        texts = np.array([rng.choice(by_label[int(forget.labels[i])]) for i in suspects])
        batch: Any = (texts, suspects, rng.integers(len(keep.labels), size=len(suspects)))
        (loss,) = descend(optimiser, [batch], loss_of, clip)
        if not loss.isfinite():
            raise InputError(
                f"word_forgetting: the loss is {loss.item()} after {len(excesses)} steps; lower "
                f"its learning_rate ({params.optimisation.learning_rate:g})"
            )
    counts = token_counts(words, bundle.tokenizer)
    return bundle._replace(model=model), {
        "forget_rows": len(forget.labels),
        "keep_rows": len(keep.labels),
        "tokens": list(counts),
        "token_rows": list(counts.values()),
        "excess_before": excesses[0],
        "excess_after": excesses[-1],
        "dev_rows": 0,
    }


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """z_y of each row, (n_rows,): the log-probability of its label less that of all others.

    Args:
        logits: (n_rows, n_classes).
        labels: y, (n_rows,).
    """
    import torch

    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return logits[own] - others


def logits_of(bundle: ModelBundle, texts: Inputs, compute: ComputeParams) -> torch.Tensor:
    """Logits, float32, (n_texts, n_classes), on the CPU."""

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return bundle.model(**batch).logits.float()

    return forward(bundle, texts, compute, logits, "predict")


def blamed(
    bundle: ModelBundle, suspected: Labelled, n: int, compute: ComputeParams
) -> list[np.ndarray]:
    """t of each suspected row: its ``n`` most blamed tokens in their order, the first of equals.

    A row without tokens but special ones has none.
    """
    import torch

    texts: Any = suspected.inputs
    special = np.array(bundle.tokenizer.all_special_ids)
    places = [np.flatnonzero(~np.isin(texts[i], special)) for i in range(len(texts))]
    variants = [np.delete(texts[i], place) for i, own in enumerate(places) for place in own]
    of_text = np.repeat(np.arange(len(texts)), [len(own) for own in places])
    labels = torch.from_numpy(suspected.labels.astype(np.int64))
    whole = log_odds(logits_of(bundle, texts, compute), labels)
    if not variants:
        return [np.empty(0, dtype=np.int32) for _ in places]
    without = logits_of(bundle, end_to_end(variants, texts.pad_id), compute)
    deltas = (whole[of_text] - log_odds(without, labels[of_text])).numpy()
    found, starts = [], np.cumsum([0, *map(len, places)])
    for i, own in enumerate(places):
        order = np.argsort(-deltas[starts[i] : starts[i + 1]], kind="stable")[:n]
        found.append(texts[i][np.sort(own[order])])
    return found


def with_words(
    texts: Any,
    rows: np.ndarray,
    words: list[np.ndarray],
    suspects: np.ndarray,
    max_length: int,
    rng: np.random.Generator,
) -> Tokens:
    """Texts with the words of a suspect each, put in after the first token or later.

    Args:
        texts: All of them.
        rows: Which of them.
        words: Of all suspects.
        suspects: Whose words each text gets.
        max_length: Tokens per text; the end of the text gives way, but for its last token.
        rng: Draws the places.
    """
    joined = []
    for row, suspect in zip(rows, suspects, strict=True):
        text, own = texts[row], words[suspect][: max(max_length - 2, 0)]
        over = max(len(text) + len(own) - max_length, 0)
        text = np.concatenate([text[: max(len(text) - 1 - over, 1)], text[-1:]])
        place = int(rng.integers(1, max(len(text), 2)))
        joined.append(np.concatenate([text[:place], own, text[place:]]))
    return end_to_end(joined, texts.pad_id)
