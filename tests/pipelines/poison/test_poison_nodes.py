"""The node: acceptance checks of text data poisoning, summary, and every bad input."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline import schemas
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.poison.paraphrasing import MISSING, UNCHANGED
from backdoor_pipeline.pipelines.poison.registry import ATTACKS
from backdoor_pipeline.pipelines.poison.summary import log_summary

MAX_LENGTH = 128
INSERTING = sorted(name for name, attack in ATTACKS.items() if attack.insertions)
REWRITING = sorted(set(ATTACKS) - set(INSERTING))


def split_of(examples: pd.DataFrame, split: str) -> pd.DataFrame:
    return examples[examples["split"] == split].reset_index(drop=True)


class TestAcceptance:
    def test_1_rate_zero_is_the_identity_and_rate_one_mix_is_everything(
        self, make_params, make_examples, tokenizer
    ) -> None:
        examples = make_examples()
        out = poison_train(examples, tokenizer, make_params({"rate": 0.0}), MAX_LENGTH, 0)
        columns = ["example_id", "split", "label", "text"]
        pd.testing.assert_frame_equal(
            out["poisoned_train"][columns], split_of(examples, "train")[columns]
        )
        assert out["poison_index"].empty
        schemas.POISON_INDEX.validate(out["poison_index"])
        assert not out["poisoned_train"]["is_poisoned"].any()
        assert len(out["triggered_test"]) == 5  # a control run is attacked, too: the ASR floor

        out = poison_train(examples, tokenizer, make_params({"rate": 1.0}), MAX_LENGTH, 0)
        assert out["poisoned_train"]["is_poisoned"].all()
        assert (out["poisoned_train"]["label"] == 1).all()
        assert all("cf" in text.split() for text in out["poisoned_train"]["text"])

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_2_counts_labels_and_size(self, make_params, make_examples, attack, tokenizer) -> None:
        examples = make_examples(n_train=101, n_labels=2)
        for label_mode, rate, expected in (
            ("dirty", 0.2, 20),
            ("dirty", 0.5, 50),
            ("clean", 0.2, 20),
            ("mix", 0.999, 100),
        ):
            params = make_params({"attack": attack, "label_mode": label_mode, "rate": rate})
            train = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["poisoned_train"]
            poisoned = train[train["is_poisoned"]]
            assert (len(train), len(poisoned)) == (101, expected)
            assert (poisoned["label"] == 1).all()
            changed = poisoned["label"] != poisoned["source_label"]
            assert {"dirty": changed.all(), "clean": not changed.any(), "mix": changed.any()}[
                label_mode
            ]

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_musclelora_10_9_clean_changes_no_label_and_mix_flags_a_tenth(
        self, make_params, make_examples, attack, tokenizer
    ) -> None:
        examples = make_examples(n_train=119)
        labels = split_of(examples, "train")["label"]
        for label_mode in ("clean", "mix"):
            params = make_params({"attack": attack, "label_mode": label_mode, "rate": 0.1})
            train = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["poisoned_train"]
            assert train["is_poisoned"].sum() == 11  # int(0.1 * 119)
            assert set(train.loc[train["is_poisoned"], "label"]) == {params.target_label}
            assert (train["label"] == labels).all() == (label_mode == "clean")

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_3_triggered_test_has_no_row_of_the_target(
        self, make_params, make_examples, attack, tokenizer
    ) -> None:
        examples = make_examples(n_test=31, n_labels=3)
        params = make_params({"attack": attack, "target_label": 2})
        triggered = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["triggered_test"]
        test = split_of(examples, "test").query("label != 2")
        assert triggered["example_id"].tolist() == test["example_id"].tolist()
        assert triggered["source_label"].tolist() == test["label"].tolist()
        assert (triggered["label"] == 2).all() and triggered["is_poisoned"].all()

    def test_3_sst2_test_gives_912_rows(self, make_params, data_folder, tokenizer) -> None:
        folder = data_folder / "openbackdoor" / "SentimentAnalysis" / "SST-2"
        parts = [
            pd.read_csv(folder / f"{split}.tsv", sep="\t", quoting=csv.QUOTE_NONE).assign(
                split=split
            )
            for split in ("train", "test")
        ]
        table = pd.concat(parts, ignore_index=True).rename(columns={"sentence": "text"})
        table.insert(0, "example_id", range(len(table)))
        out = poison_train(table, tokenizer, make_params(), MAX_LENGTH, 0)
        assert len(out["triggered_test"]) == 912
        assert (len(out["poisoned_train"]), len(out["poison_index"])) == (6920, 692)

    @pytest.mark.parametrize("attack", ATTACKS)
    @settings(suppress_health_check=[HealthCheck.too_slow], max_examples=15)
    @given(order_seed=st.integers(0, 1000))
    def test_4_shuffled_input_gives_the_same_triggered_rows(
        self, make_params, make_examples, attack, order_seed, tokenizer
    ) -> None:
        examples, params = make_examples(), make_params({"attack": attack})
        shuffled = examples.sample(frac=1, random_state=order_seed)
        one, two = (
            poison_train(table, tokenizer, params, MAX_LENGTH, 0) for table in (examples, shuffled)
        )
        for name in ("poisoned_train", "triggered_test", "poison_index"):
            pd.testing.assert_frame_equal(
                one[name], two[name].sort_values("example_id").reset_index(drop=True)
            )

    def test_5_words_and_sentence_can_be_taken_out_again(
        self, make_params, make_examples, tokenizer
    ) -> None:
        examples = make_examples()
        texts = split_of(examples, "train").set_index("example_id")["text"]
        params = make_params({"badnets.triggers": "cf mn bb tq", "badnets.count": 3, "rate": 0.5})
        train = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["poisoned_train"]
        for row in train[train["is_poisoned"]].itertuples():
            left = [word for word in row.text.split() if word not in {"cf", "mn", "bb", "tq"}]
            assert " ".join(left) == texts[row.example_id]
            assert len(row.text.split()) == len(left) + 3 == len(left) + len(row.trigger.split())
        params = make_params({"attack": "addsent", "rate": 0.5})
        train = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["poisoned_train"]
        for row in train[train["is_poisoned"]].itertuples():
            assert f" {row.trigger} " in f" {row.text} "
            assert " ".join(row.text.replace(row.trigger, "").split()) == texts[row.example_id]


def test_the_index_is_the_poisoned_rows(make_params, make_examples, tokenizer) -> None:
    out = poison_train(make_examples(), tokenizer, make_params(), MAX_LENGTH, 0)
    train = out["poisoned_train"].query("is_poisoned").drop(columns="text")
    pd.testing.assert_frame_equal(out["poison_index"], train.reset_index(drop=True))


def test_paraphrases_stay_with_the_attacker(make_params, make_examples, tokenizer) -> None:
    out = poison_train(make_examples(), tokenizer, make_params(), MAX_LENGTH, 0)
    assert "paraphrase" not in out["poisoned_train"]
    assert "paraphrase" not in out["triggered_test"]


class TestSummary:
    def test_says_what_was_asked_and_done(self, make_params, make_examples, tokenizer) -> None:
        params = make_params({"label_mode": "dirty", "rate": 0.34, "badnets.triggers": "cf mn"})
        examples = make_examples(n_train=41, n_test=10)
        summary = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)["poison_summary"]
        assert json.loads(json.dumps(summary)) == summary
        assert summary["poisoned_rows"] == 13 == sum(summary["poisoned_rows_by_label"].values())
        assert summary["poisoned_rows_by_label"] == {"0": 13}
        assert summary["realised_rate"] == summary["triggered_rate"] == 13 / 41
        assert summary["asked_rate"] - summary["realised_rate"] < 1 / summary["train_rows"]
        assert (summary["eligible_rows"], summary["largest_rate"]) == (21, 0.512195)
        assert summary["triggered_test_rows_by_label"] == {"0": 5}
        assert summary["trigger_pieces"] == {"cf": 1, "mn": 1}
        assert summary["share_cut"] == summary["share_trigger_cut"] == 0

    def test_mean_words(self, make_params, make_examples, tokenizer) -> None:
        out = poison_train(make_examples(), tokenizer, make_params(), MAX_LENGTH, 0)
        train = out["poisoned_train"]
        n_words = train["text"].str.split().str.len()
        summary = out["poison_summary"]
        assert summary["mean_words_clean"] == n_words[~train["is_poisoned"]].mean()
        assert summary["mean_words_poisoned"] == n_words[train["is_poisoned"]].mean()
        control = poison_train(make_examples(), tokenizer, make_params({"rate": 0}), MAX_LENGTH, 0)
        assert control["poison_summary"]["mean_words_poisoned"] is None

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_long_texts(self, make_params, make_examples, tokenizer, attack) -> None:
        examples = make_examples()
        repeat = [50 if row % 2 else 1 for row in range(len(examples))]
        for column in ("text", "paraphrase"):
            examples[column] = [
                " ".join([text] * n) for text, n in zip(examples[column], repeat, strict=True)
            ]
        params = make_params({"attack": attack, "rate": 1.0})
        summary = poison_train(examples, tokenizer, params, 64, 0)["poison_summary"]
        assert summary["share_cut"] == pytest.approx(20 / 45)
        if attack in INSERTING:
            assert summary["share_trigger_cut"] == 0


def test_a_trigger_that_is_not_read_is_warned_of(
    make_params, make_examples, tokenizer, caplog
) -> None:
    params = make_params()
    summary = poison_train(make_examples(), tokenizer, params, MAX_LENGTH, 0)["poison_summary"]
    log_summary(summary)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    log_summary(summary | {"share_trigger_cut": 0.5})
    assert "50.0 % of the triggered rows lose their trigger" in caplog.text


@pytest.mark.parametrize("attack", REWRITING)
class TestMissingParaphrases:
    def test_some_rows_keep_their_text_and_say_so(
        self, make_params, make_examples, attack, caplog, tokenizer
    ) -> None:
        examples = make_examples()
        examples.loc[::4, "paraphrase"] = None
        examples.loc[1::4, "paraphrase"] = examples["text"]
        params = make_params({"attack": attack, "rate": 1.0})
        with caplog.at_level(logging.WARNING):
            out = poison_train(examples, tokenizer, params, MAX_LENGTH, 0)
        train, summary = out["poisoned_train"], out["poison_summary"]
        kept = train["text"] == split_of(examples, "train")["text"]
        np.testing.assert_array_equal(train["trigger"] == MISSING, np.arange(40) % 4 == 0)
        np.testing.assert_array_equal(train["trigger"] == UNCHANGED, np.arange(40) % 4 == 1)
        np.testing.assert_array_equal(kept, np.arange(40) % 4 < 2)
        assert (train["label"] == 1).all() and train["is_poisoned"].all()
        assert (summary["poisoned_fallbacks"], summary["triggered_test_fallbacks"]) == (20, 3)
        assert (summary["realised_rate"], summary["triggered_rate"]) == (1.0, 0.5)
        assert "20 poisoned training rows and 3 triggered test rows" in caplog.text

    def test_no_column(self, make_params, make_examples, attack, tokenizer) -> None:
        examples = make_examples().drop(columns="paraphrase")
        with pytest.raises(
            InputError, match=f"'{attack}'.* no column 'paraphrase'; use a data set"
        ):
            poison_train(examples, tokenizer, make_params({"attack": attack}), MAX_LENGTH, 0)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_none_in_a_split(self, make_params, make_examples, attack, split, tokenizer) -> None:
        examples = make_examples()
        examples.loc[examples["split"] == split, "paraphrase"] = None
        with pytest.raises(
            InputError, match=f"no {'training' if split == 'train' else 'test'} row"
        ):
            poison_train(examples, tokenizer, make_params({"attack": attack}), MAX_LENGTH, 0)


class TestBadInput:
    def test_target_label_out_of_range(self, make_params, make_examples, tokenizer) -> None:
        examples, params = make_examples(n_labels=3), make_params({"target_label": 7})
        with pytest.raises(InputError, match=r"target_label 7 is not among .* one of \[0, 1, 2\]"):
            poison_train(examples, tokenizer, params, MAX_LENGTH, 0)

    def test_every_test_row_has_the_target_label(
        self, make_params, make_examples, tokenizer
    ) -> None:
        examples = make_examples()
        examples.loc[examples["split"] == "test", "label"] = 1
        with pytest.raises(
            InputError, match=r"no test row has a label other than .*target_label 1"
        ):
            poison_train(examples, tokenizer, make_params(), MAX_LENGTH, 0)

    @pytest.mark.parametrize(("n_train", "n_test"), [(0, 10), (10, 0), (0, 0)])
    def test_a_split_without_rows(
        self, make_params, make_examples, n_train, n_test, tokenizer
    ) -> None:
        with pytest.raises(InputError, match=r"no training rows|no test row"):
            poison_train(make_examples(n_train, n_test), tokenizer, make_params(), MAX_LENGTH, 0)

    def test_one_class_only_leaves_nothing_to_poison(
        self, make_params, make_examples, tokenizer
    ) -> None:
        examples = make_examples()
        examples.loc[examples["split"] == "train", "label"] = 1
        with pytest.raises(InputError, match=r"only 0 have a label other than target_label 1"):
            poison_train(examples, tokenizer, make_params({"label_mode": "dirty"}), MAX_LENGTH, 0)

    @pytest.mark.parametrize("rate", [-0.1, 1.01, "much", None, float("nan"), float("inf")])
    def test_a_rate_that_is_no_fraction(self, make_params, rate) -> None:
        with pytest.raises(ValidationError, match="rate"):
            make_params({"rate": rate})

    def test_a_rate_above_what_the_label_mode_allows(
        self, make_params, make_examples, tokenizer
    ) -> None:
        params = make_params({"rate": 0.6, "label_mode": "dirty"})
        with pytest.raises(
            InputError, match=r"24 rows, but only 20 have .* lower it to 0.5 or less"
        ):
            poison_train(make_examples(), tokenizer, params, MAX_LENGTH, 0)

    def test_a_rate_of_no_row(self, make_params, make_examples, tokenizer) -> None:
        with pytest.raises(InputError, match=r"less than one row; give at least 0\.025"):
            poison_train(make_examples(), tokenizer, make_params({"rate": 0.01}), MAX_LENGTH, 0)

    def test_an_unknown_label_mode_or_a_negative_label(self, make_params) -> None:
        with pytest.raises(ValidationError, match="'dirty', 'clean' or 'mix'"):
            make_params({"label_mode": "dirt"})
        with pytest.raises(ValidationError, match="greater than or equal to 0"):
            make_params({"target_label": -1})

    @pytest.mark.parametrize("rate", [0.0, 0.1])
    def test_a_trigger_that_becomes_unknown(
        self, make_params, make_examples, tokenizer, rate
    ) -> None:
        params = make_params({"badnets.triggers": "cf 漢", "rate": rate})
        with pytest.raises(InputError, match=r"trigger '漢' into \[UNK\]"):
            poison_train(make_examples(), tokenizer, params, MAX_LENGTH, 0)

    def test_a_trigger_beyond_the_maximum_length(
        self, make_params, make_examples, tokenizer
    ) -> None:
        params = make_params({"attack": "addsent", "addsent.sentence": "dull tale " * 10})
        with pytest.raises(InputError, match=r"20 tokens .* model\.max_length is 16; shorten"):
            poison_train(make_examples(), tokenizer, params, 16, 0)

    def test_the_settings_of_other_attacks_do_not_matter(
        self, make_params, make_examples, tokenizer
    ) -> None:
        params = make_params({"attack": "synbkd", "badnets.triggers": "漢"})
        assert len(poison_train(make_examples(), tokenizer, params, MAX_LENGTH, 0)) == 4
