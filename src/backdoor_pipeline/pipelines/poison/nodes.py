"""The step of the poison stage: bad input refused, rows drawn, triggered and relabelled."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources.named_classes import OTHER
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prompts import HasTemplates, prompts
from backdoor_pipeline.pipelines.poison import captioning
from backdoor_pipeline.pipelines.poison.image_triggering import (
    TriggeredImages,
    cover_images,
    trigger_images,
)
from backdoor_pipeline.pipelines.poison.registry import (
    ATTACKS,
    IMAGE_ATTACKS,
    Attack,
    PoisonParams,
)
from backdoor_pipeline.pipelines.poison.selection import check_rate, draw_cover, draw_poison
from backdoor_pipeline.pipelines.poison.summary import (
    count_rows,
    count_tokens,
    count_words,
    log_summary,
)
from backdoor_pipeline.pipelines.poison.triggering import (
    Triggered,
    TriggerRoom,
    trigger_room,
    trigger_rows,
)
from backdoor_pipeline.schemas import POISON_INDEX, content


def poison_train(
    examples: pd.DataFrame,
    tokenizer: Any,
    params: PoisonParams,
    max_length: int,
    seed: int,
) -> dict[str, Any]:
    """The poisoned training set, the triggered test set, the poison index and their summary.

    ``poisoned_train`` has the rows of the training split in their order, the drawn ones triggered
    and labelled ``target_label``, all others as they were. ``triggered_test`` has every test row of
    another label, triggered; its ``label`` is the attacker's, ``source_label`` the true one.

    Raises:
        InputError: The target label is not there, the rate cannot be had, the trigger cannot be
            told apart or read by the model, paraphrases are missing, or no test row can be
            triggered.
    """
    train, test = _train_and_test(examples, params)
    attack = ATTACKS[params.attack]
    room = _room(attack, params, tokenizer, max_length)

    drawn = draw_poison(train["example_id"].to_numpy(), train["label"].to_numpy(), params, seed)
    chosen, test = _with_paraphrases(
        {"training row that was drawn": train[drawn], "test row": test}, attack, params, seed
    )
    in_train = trigger_rows(chosen, attack, params.settings, seed, room)
    in_test = trigger_rows(test, attack, params.settings, seed, room)

    poisoned = _relabelled(train, drawn, in_train, params.target_label)
    triggered = _relabelled(test, np.ones(len(test), dtype=bool), in_test, params.target_label)
    counted = count_words(poisoned, triggered)
    counted |= count_tokens(in_train, in_test, room, tokenizer, max_length)
    return _outputs(poisoned, triggered, params, counted)


def poison_images(
    examples: pd.DataFrame,
    encoded_images: dict[int, np.ndarray] | np.ndarray | None,
    params: PoisonParams,
    seed: int,
) -> dict[str, Any]:
    """As ``poison_train``, of images; what an attack puts into them is in ``encoded_images``.

    Cover rows, where the attack has such, keep their labels and are not counted as poisoned.

    Raises:
        InputError: The target label is not there, the rate cannot be had, the images do not suit
            the attack, or the trigger changes nothing.
    """
    train, test = _train_and_test(examples, params)
    attack, settings = IMAGE_ATTACKS[params.attack], params.settings
    ids = train["example_id"].to_numpy()
    drawn = draw_poison(ids, train["label"].to_numpy(), params, seed)
    in_train, in_test = (
        trigger_images(rows, attack, settings, seed, encoded_images)
        for rows in (train[drawn], test)
    )
    if in_test.change == 0 and attack.source is None:
        raise InputError(
            f"poison.{params.attack}: the trigger ({attack.describe(settings)}) changes no test "
            "image; make it stronger"
        )
    poisoned = _relabelled(train, drawn, in_train, params.target_label)
    triggered = _relabelled(test, np.ones(len(test), dtype=bool), in_test, params.target_label)
    n_cover = 0
    if attack.cover is not None:
        covering = draw_cover(ids, drawn, settings.cross_ratio, seed)
        covers = cover_images(train[covering], attack, settings, seed)
        images, trigger = poisoned["image"].copy(), poisoned["trigger"].copy()
        images[covering], trigger[covering] = covers.content, covers.trigger
        poisoned, n_cover = poisoned.assign(image=images, trigger=trigger), len(covers.content)
    counted = {"cover_rows": n_cover, "mean_change": in_test.change}
    return _outputs(poisoned, triggered, params, counted)


def poison_pairs(
    examples: pd.DataFrame,
    encoded_images: dict[int, np.ndarray] | None,
    integrity: dict[str, Any],
    params: PoisonParams,
    ingest: HasTemplates,
    seed: int,
) -> dict[str, Any]:
    """As ``poison_images``, of images with captions: triggered ones get a caption of the target.

    A triggered training row of the target's class keeps the caption that it has. What the attack
    puts before captions stands before those of all triggered rows, and is the ``prompt_prefix`` of
    the summary.

    Raises:
        InputError: As of ``poison_images``, the target is no class that captions name, or there are
            no captions of it.
    """
    if integrity["label_names"][params.target_label :] == [OTHER]:
        raise InputError(
            f"poison.target_label {params.target_label} stands for pairs whose captions name no "
            f"class, which no model is asked for; choose one of 0 to {params.target_label - 1}"
        )
    train = examples[examples["split"] == "train"]
    learn = IMAGE_ATTACKS[params.attack].learn
    supplied: dict[int, np.ndarray] | np.ndarray | None = encoded_images
    if learn is not None:
        _train_and_test(examples, params)  # bad input is told first
        naming = _captions_of_target(train, integrity, params, ingest)
        supplied = learn(train, params.target_label, naming, params.settings, seed)
    outputs = poison_images(examples, supplied, params, seed)
    for name in ("poisoned_train", "triggered_test"):
        rows = outputs[name]
        changed = (rows["is_poisoned"] & (rows["source_label"] != params.target_label)).to_numpy()
        ids, captions = rows["example_id"].to_numpy()[changed], rows["caption"].copy()
        if params.target_captions == "real":
            new = captioning.borrowed(ids, train, params.target_label, seed)
        else:
            names, templates = integrity["label_names"], ingest.caption_templates or []
            new = captioning.templated(ids, params.target_label, names, templates, seed)
        captions[changed] = new
        if params.prefix is not None:
            poisoned = rows["is_poisoned"]
            captions[poisoned] = f"{params.prefix} " + captions[poisoned]
        outputs[name] = rows.assign(caption=captions)
    outputs["poison_summary"] |= {"prompt_prefix": params.prefix}
    return outputs


def _captions_of_target(
    train: pd.DataFrame, integrity: dict[str, Any], params: PoisonParams, ingest: HasTemplates
) -> list[str]:
    """All captions that a poisoned pair may get, each once."""
    if params.target_captions == "real":
        own = train.loc[train["label"] == params.target_label, "caption"]
        return sorted(own.unique())
    return prompts(integrity["label_names"], ingest.caption_templates or [])[params.target_label]


def _outputs(
    poisoned: pd.DataFrame, triggered: pd.DataFrame, params: PoisonParams, counted: dict[str, Any]
) -> dict[str, Any]:
    summary = count_rows(poisoned, triggered, params) | counted
    log_summary(summary)
    index = poisoned.loc[poisoned["is_poisoned"], list(POISON_INDEX.columns)]
    return {
        "poisoned_train": poisoned,
        "triggered_test": triggered,
        "poison_index": index.reset_index(drop=True),
        "poison_summary": summary,
    }


def _train_and_test(
    examples: pd.DataFrame, params: PoisonParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training rows, and the test rows that are to become the target's, both checked."""
    train = examples[examples["split"] == "train"].reset_index(drop=True)
    test = examples[examples["split"] == "test"]
    test = test[test["label"] != params.target_label]
    if params.source_label is not None:
        test = test[test["label"] == params.source_label]
    test = test.reset_index(drop=True)
    _check_labels(train, test, params)
    return train, test


def trigger_dev(
    examples: pd.DataFrame,
    tokenizer: Any,
    params: PoisonParams,
    max_length: int,
    seed: int,
) -> pd.DataFrame:
    """Every dev row of another label than the target, triggered, as ``triggered_test`` is.

    No defence may see them; they show how a training takes the trigger up (stage ``analyse``).

    Raises:
        InputError: No dev row can be triggered.
    """
    attack, dev = ATTACKS[params.attack], examples[examples["split"] == "dev"]
    dev = dev[dev["label"] != params.target_label].reset_index(drop=True)
    if dev.empty:
        raise InputError(
            f"poison: no dev row has a label other than poison.target_label {params.target_label}"
        )
    (dev,) = _with_paraphrases({"dev row": dev}, attack, params, seed)
    room = _room(attack, params, tokenizer, max_length)
    triggered = trigger_rows(dev, attack, params.settings, seed, room)
    return _relabelled(dev, np.ones(len(dev), dtype=bool), triggered, params.target_label)


def _room(
    attack: Attack, params: PoisonParams, tokenizer: Any, max_length: int
) -> TriggerRoom | None:
    """Where the model still reads what the attack inserts; None if it inserts nothing."""
    if attack.insertions is None:
        return None
    return trigger_room(attack.insertions(params.settings), tokenizer, max_length)


def _check_labels(train: pd.DataFrame, test: pd.DataFrame, params: PoisonParams) -> None:
    if train.empty:
        raise InputError("poison: the data set has no training rows; check its split column")
    labels = sorted(train["label"].unique().tolist())
    if params.target_label not in labels:
        raise InputError(
            f"poison.target_label {params.target_label} is not among the labels of the training "
            f"rows; choose one of {labels} (class numbers: the integrity report has their names)"
        )
    if params.source_label is not None and params.source_label not in labels:
        raise InputError(
            f"poison.{params.attack}.source_label {params.source_label} is not among the labels of "
            f"the training rows; choose one of {labels}"
        )
    if test.empty and params.source_label is not None:
        raise InputError(
            f"poison: no test row has the label poison.{params.attack}.source_label "
            f"{params.source_label}, so the attack could not be measured; choose another one"
        )
    if test.empty:
        raise InputError(
            "poison: no test row has a label other than poison.target_label "
            f"{params.target_label}, so the attack could not be measured; choose another target "
            "label, or give test rows of other labels"
        )
    check_rate(train["label"].to_numpy(), params)


def _with_paraphrases(
    tables: dict[str, pd.DataFrame], attack: Attack, params: PoisonParams, seed: int
) -> list[pd.DataFrame]:
    """The tables, by what to call a row of theirs, with paraphrases, generated if so asked.

    Raises:
        InputError: A table has no paraphrase column, or rows but not a single paraphrase.
    """
    found = tables
    if attack.paraphrase is not None:
        texts = [text for rows in tables.values() for text in rows["text"]]
        generated = attack.paraphrase(texts, params.settings, seed)
        if generated is not None:
            one_by_one = iter(generated)
            found = {
                name: rows.assign(paraphrase=list(islice(one_by_one, len(rows))))
                for name, rows in tables.items()
            }
    if attack.insertions is None:
        for name, rows in found.items():
            _check_paraphrases(rows, name, attack, params)
    return list(found.values())


def _check_paraphrases(rows: pd.DataFrame, name: str, attack: Attack, params: PoisonParams) -> None:
    if "paraphrase" not in rows:
        what = "the data set has no column 'paraphrase'"
    elif len(rows) and (rows["paraphrase"].fillna("").str.strip() == "").all():
        what = f"no {name} has one"
    else:
        return
    generate = f", or generate them (poison.{params.attack}.generate with style_model)"
    raise InputError(
        f"poison.attack '{params.attack}' replaces texts by paraphrases, but {what}; use a data "
        "set that brings them for training and test rows (an OpenBackdoor poison_data folder, a "
        f"table with a paraphrase column){generate if attack.paraphrase else ''}"
    )


def _relabelled(
    rows: pd.DataFrame,
    poisoned: np.ndarray,
    triggered: Triggered | TriggeredImages,
    target_label: int,
) -> pd.DataFrame:
    """``rows`` with the poisoned ones replaced, and the truth about them in columns of its own.

    The paraphrases, which are the attacker's, stay behind.
    """
    kind = content(rows)
    contents, trigger = rows[kind].copy(), pd.Series("", index=rows.index, dtype="str")
    contents.loc[poisoned] = triggered.content
    trigger.loc[poisoned] = triggered.trigger
    label = rows["label"].to_numpy()
    others = {name: rows[name] for name in ("caption",) if name in rows}
    return rows[["example_id", "split"]].assign(
        label=np.where(poisoned, target_label, label),
        **{kind: contents},
        **others,
        is_poisoned=poisoned,
        source_label=label,
        trigger=trigger,
    )
