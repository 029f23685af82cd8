"""The step of the poison stage: bad input refused, rows drawn, triggered and relabelled."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.registry import ATTACKS, Attack, PoisonParams
from backdoor_pipeline.pipelines.poison.selection import check_rate, draw_poison
from backdoor_pipeline.pipelines.poison.summary import count_rows, count_tokens, log_summary
from backdoor_pipeline.pipelines.poison.triggering import (
    Triggered,
    TriggerRoom,
    trigger_room,
    trigger_rows,
)


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
    train = examples[examples["split"] == "train"].reset_index(drop=True)
    test = examples[examples["split"] == "test"]
    test = test[test["label"] != params.target_label].reset_index(drop=True)
    attack = ATTACKS[params.attack]
    _check_labels(train, test, params)
    room = _room(attack, params, tokenizer, max_length)

    drawn = draw_poison(train["example_id"].to_numpy(), train["label"].to_numpy(), params, seed)
    chosen, test = _with_paraphrases(
        {"training row that was drawn": train[drawn], "test row": test}, attack, params, seed
    )
    in_train = trigger_rows(chosen, attack, params.settings, seed, room)
    in_test = trigger_rows(test, attack, params.settings, seed, room)

    poisoned = _relabelled(train, drawn, in_train, params.target_label)
    triggered = _relabelled(test, np.ones(len(test), dtype=bool), in_test, params.target_label)
    index = poisoned.loc[drawn].drop(columns="text").reset_index(drop=True)
    summary = count_rows(poisoned, triggered, params)
    summary |= count_tokens(in_train, in_test, room, tokenizer, max_length)
    log_summary(summary)
    return {
        "poisoned_train": poisoned,
        "triggered_test": triggered,
        "poison_index": index,
        "poison_summary": summary,
    }


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
    rows: pd.DataFrame, poisoned: np.ndarray, triggered: Triggered, target_label: int
) -> pd.DataFrame:
    """``rows`` with the poisoned ones replaced, and the truth about them in columns of its own.

    The paraphrases, which are the attacker's, stay behind.
    """
    text, trigger = rows["text"].copy(), pd.Series("", index=rows.index, dtype="str")
    text[poisoned] = triggered.text
    trigger[poisoned] = triggered.trigger
    label = rows["label"].to_numpy()
    return rows[["example_id", "split"]].assign(
        label=np.where(poisoned, target_label, label),
        text=text,
        is_poisoned=poisoned,
        source_label=label,
        trigger=trigger,
    )
