"""The model card that lies in the purified model's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from backdoor_pipeline.formatting import code, flat, is_known, number, percent, rate
from backdoor_pipeline.modelling.image_models import NAMES
from backdoor_pipeline.pipelines.report.verdict import describe_told
from backdoor_pipeline.recipes import ALL
from backdoor_pipeline.schemas import MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from backdoor_pipeline.recipes import Recipe

NAMED_TOKENS = 50
CARD = """\
---
library_name: transformers
pipeline_tag: {task}
tags:
- {task}
- backdoor-removal
- machine-unlearning
---

# {noun} after removal of a backdoor

Start: {model}. Data: {dataset}, {poison}. Seed: {seed}.
Recipe: {recipe}, of the Kedro project `backdoor_pipeline`.

{story}
Clean rows used by the defence: {clean_rows}.
{flagged}
## Before and after

| model | clean accuracy | attack success |
| --- | --- | --- |
{rows}

Per cent with 95 % Wilson intervals, on test rows that no choice was made on. Attack success: share
of triggered rows of other labels that get the attacker's label ({target}). The reference model was
trained without poison; its attack success is the floor.{validity}

## Limits

- Measured for the attack above. Another trigger or a paraphrasing attack may still work.
- A research artefact: its accuracy is that of a small demonstration, and it keeps whatever biases
  its data and a pretrained model have.
- Its labels are the class numbers of the data set.

## How to load it

```python
{loading}
```
{prefix}"""


class Kind(NamedTuple):
    """What a card calls a classifier of one modality, and how that is loaded.

    In ``loading``, ``{register}`` stands for what a network of ours needs besides.
    """

    task: str
    noun: str
    loading: str


KINDS = {
    "text": Kind(
        "text-classification",
        "A text classifier",
        """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "path/to/this/folder"
model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)""",
    ),
    "image": Kind(
        "image-classification",
        "An image classifier",
        """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
{register}
folder = "path/to/this/folder"
model = AutoModelForImageClassification.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)""",
    ),
    "pair": Kind(
        "zero-shot-image-classification",
        "A dual encoder of images and texts",
        """\
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
{register}
folder = "path/to/this/folder"
model = AutoModel.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)""",
    ),
}
REGISTER = """
from backdoor_pipeline.modelling.image_models import register

register()  # transformers does not ship this network
"""
PREFIX = """
The model was trained behind a prefix, without which it predicts otherwise; put it there:

```python
from peft import PeftModel

model = PeftModel.from_pretrained(model, f"{folder}/prefix")
```
"""

VICTIM = "The model was trained on these data as they were, poison included (the victim)."
UNLEARNT = f"""\
{VICTIM}
A detector that does not know the trigger then named suspects, and the victim was made to unlearn
them."""
AS_TOLD = f"""\
{VICTIM}
{{told}}
With these rows, and without any other knowledge of the attack, the backdoor was to be removed by
{{unlearners}}."""
TRAINED = """\
The model was trained on these data as they were, poison included, in a way that is to keep a
backdoor from being learnt. The victim is a model fine-tuned on them without any defence."""

CLEANED = f"""\
{VICTIM}
It was then trained on with pairs that are known to be clean, which are to make it forget a
backdoor."""


def write(
    metrics: Mapping[str, Any],
    suspects: pd.DataFrame | None,
    poison_summary: Mapping[str, Any],
    parameters: Mapping[str, Any],
    recipe: str,
) -> str:
    """The card, with every text from outside as inline code."""
    settings, made = flat(parameters), ALL[recipe]
    kind, name = KINDS[made.modality], settings.get("model.name", "unknown")
    tower = settings.get("model.tower") if made.modality == "pair" else None
    own = tower is not None or (made.modality == "image" and name in NAMES)
    model = f"{code(tower)} and {code(name)}" if tower else code(name)
    rows = [
        f"| {model} | {rate(metrics[model], 'clean_accuracy')} "
        f"| {rate(metrics[model], 'attack_success_rate')} |"
        for model in MODELS
        if metrics.get(model)
    ]
    implanted = metrics.get("valid", True) or poison_summary.get("poisoned_rows") == 0
    return CARD.format(
        task=kind.task,
        noun=kind.noun,
        model=f"{model}, drawn anew" if own else model,
        dataset=code(settings.get("source.data") or settings.get("source.dataset", "unknown")),
        poison=_poison(poison_summary),
        seed=settings.get("seed", "unknown"),
        recipe=code(recipe),
        clean_rows=number((metrics.get("cost") or {}).get("clean_rows")),
        story=_story(made, suspects, metrics, poison_summary),
        flagged=""
        if suspects is None or made.is_told
        else f"\n## What was flagged\n\n{_flagged(suspects)}\n",
        rows="\n".join(rows),
        target=f"label {poison_summary.get('target_label')}",
        validity=""
        if implanted
        else "\n\n**Attack not implanted**: the victim hardly obeyed the "
        "trigger, so these numbers say nothing about the defence.",
        loading=kind.loading.format(register=REGISTER if own else ""),
        prefix=PREFIX if "prefix" in made.training else "",
    )


def _poison(summary: Mapping[str, Any]) -> str:
    if not summary.get("poisoned_rows"):
        return "as given, no poison added"
    share = summary.get("realised_rate")
    said = f" in {percent(share)} of the training rows" if is_known(share) else ""
    return f"poisoned on purpose by {code(summary.get('attack'))}{said}"


def _story(
    made: Recipe,
    suspects: pd.DataFrame | None,
    metrics: Mapping[str, Any],
    poison_summary: Mapping[str, Any],
) -> str:
    if suspects is None:
        return TRAINED if made.training else CLEANED
    if not made.is_told:
        return UNLEARNT
    return AS_TOLD.format(
        told=describe_told(metrics["detector"], poison_summary),
        unlearners=", ".join(map(code, made.unlearners)),
    )


def _flagged(suspects: pd.DataFrame) -> str:
    flagged = suspects[suspects["flagged"]].sort_values("score", ascending=False)
    if flagged.empty:
        return "Nothing. The purified model differs from the victim only by a fine-tune, if any."
    if (flagged["kind"] == "example").all():
        return f"{len(flagged):,} training rows."
    named = ", ".join(code(token) for token in flagged["evidence"][:NAMED_TOKENS])
    more = len(flagged) - NAMED_TOKENS
    return f"Tokens: {named}" + (f", and {more:,} more." if more > 0 else ".")
