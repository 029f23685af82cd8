"""The contract that every registered attack keeps, and what each attack does to a text."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline import schemas
from backdoor_pipeline.pipelines.poison import addsent, badnets, paraphrasing, stylebkd, synbkd
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.poison.registry import ATTACKS, IMAGE_ATTACKS, PoisonParams
from backdoor_pipeline.pipelines.poison.selection import eligible_rows

MODES = ("dirty", "clean", "mix")
SEED = 7
MAX_LENGTH = 128

plain_words = st.text(alphabet="abcdefgh", min_size=1, max_size=6)
plain_texts = st.lists(plain_words, min_size=1, max_size=20).map(" ".join)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_attack_names_are_the_registry() -> None:
    names = get_args(PoisonParams.model_fields["attack"].annotation)
    assert set(names) == {*ATTACKS, *IMAGE_ATTACKS}
    assert set(names) <= set(PoisonParams.model_fields)


def test_unknown_attack_and_parameter_are_rejected(make_params) -> None:
    with pytest.raises(ValidationError, match="badnets"):
        make_params({"attack": "badnet"})
    with pytest.raises(ValidationError, match="trigers"):
        make_params({"badnets.trigers": "cf"})


@pytest.mark.parametrize("attack", ATTACKS)
class TestContract:
    @pytest.mark.parametrize("label_mode", MODES)
    @pytest.mark.parametrize("rate", [0.0, 0.1, 0.33])
    def test_changes_exactly_the_drawn_rows(
        self, make_params, make_examples, attack, label_mode, rate, tokenizer
    ) -> None:
        examples = make_examples(n_train=57, n_test=13, n_labels=3)
        params = make_params({"attack": attack, "label_mode": label_mode, "rate": rate})
        if label_mode == "clean" and rate > 0.3:
            params = params.model_copy(update={"rate": 19 / 57})
        out = poison_train(examples, tokenizer, params, MAX_LENGTH, SEED)

        before = examples[examples["split"] == "train"].reset_index(drop=True)
        after = out["poisoned_train"]
        eligible = eligible_rows(before["label"].to_numpy(), params).sum()
        changed = (after["text"] != before["text"]).to_numpy()
        assert changed.sum() == min(int(params.rate * len(before)), eligible)
        np.testing.assert_array_equal(changed, after["is_poisoned"])
        rest = ["example_id", "split", "label", "text"]
        pd.testing.assert_frame_equal(after.loc[~changed, rest], before.loc[~changed, rest])
        assert (after.loc[changed, "trigger"] != "").all()
        assert (after.loc[~changed, "trigger"] == "").all()
        assert (after["source_label"] == before["label"]).all()

    def test_keeps_the_schemas_and_the_input(
        self, make_params, make_examples, attack, tokenizer
    ) -> None:
        examples = make_examples()
        copy = examples.copy(deep=True)
        out = poison_train(examples, tokenizer, make_params({"attack": attack}), MAX_LENGTH, SEED)
        schemas.POISONED.validate(out["poisoned_train"])
        schemas.POISONED.validate(out["triggered_test"])
        schemas.POISON_INDEX.validate(out["poison_index"])
        pd.testing.assert_frame_equal(examples, copy)

    def test_same_seed_same_bytes_another_seed_other_rows(
        self, make_params, make_examples, attack, tokenizer
    ) -> None:
        examples, params = make_examples(n_train=200), make_params({"attack": attack})
        one, two, other = (
            poison_train(examples, tokenizer, params, MAX_LENGTH, seed) for seed in (3, 3, 4)
        )
        for name in ("poisoned_train", "triggered_test", "poison_index"):
            assert one[name].to_csv() == two[name].to_csv()
        assert set(one["poison_index"]["example_id"]) != set(other["poison_index"]["example_id"])

    def test_the_trigger_reads_neither_label_nor_global_randomness(
        self, make_params, make_examples, attack
    ) -> None:
        params = make_params({"attack": attack})
        np.random.seed(0)
        first = ATTACKS[attack].trigger("a dull film", "lo , a dull film", params.settings, rng())
        np.random.seed(1)
        second = ATTACKS[attack].trigger("a dull film", "lo , a dull film", params.settings, rng())
        assert first == second
        assert first[0] != "a dull film" and first[1]


class TestBadNets:
    @pytest.mark.parametrize("position", ["random", "start", "end"])
    @pytest.mark.parametrize("draw", [("one", 1), ("one", 4), ("all", 1), ("any", 1)])
    @given(case=st.tuples(plain_texts, st.integers(0, 2**32)))
    def test_removing_the_inserted_words_restores_the_text(
        self, make_params, position, draw, case
    ) -> None:
        words, (pick, count), (text, seed) = ["XX", "YY", "ZZ"], draw, case
        group = make_params(
            {
                "badnets.triggers": words,
                "badnets.pick": pick,
                "badnets.count": count,
                "badnets.position": position,
            }
        ).badnets
        triggered, name = badnets.trigger(text, None, group, rng(seed))
        kept = [word for word in triggered.split(" ") if word not in words]
        inserted = [word for word in triggered.split(" ") if word in words]
        assert " ".join(kept) == text
        assert sorted(inserted) == sorted(name.split())
        if pick == "one":
            assert len(inserted) == count
        elif pick == "all":
            assert sorted(inserted) == words
        else:
            assert 1 <= len(inserted) == len(set(inserted)) <= len(words)
        if position != "random":
            ends = triggered.split()[: len(inserted)], triggered.split()[-len(inserted) :]
            assert name.split() in ends

    def test_every_gap_and_every_word_is_equally_likely(self, make_params) -> None:
        group = make_params({"badnets.triggers": "XX YY"}).badnets
        generator, n_draws = rng(), 8000
        seen: dict[tuple[str, int], int] = {}
        for _ in range(n_draws):
            triggered, name = badnets.trigger("a b c", None, group, generator)
            place = name, triggered.split().index(name)
            seen[place] = seen.get(place, 0) + 1
        assert len(seen) == 2 * 4
        assert max(seen.values()) < 1.25 * n_draws / 8
        assert min(seen.values()) > 0.75 * n_draws / 8

    def test_any_draws_every_subset(self, make_params) -> None:
        group = make_params({"badnets.triggers": "XX YY ZZ", "badnets.pick": "any"}).badnets
        generator = rng()
        names = {badnets.trigger("a b", None, group, generator)[1] for _ in range(200)}
        assert len({frozenset(name.split()) for name in names}) == 7

    def test_a_string_is_split_at_its_blanks(self, make_params) -> None:
        assert make_params({"badnets.triggers": " cf  mn\tbb "}).badnets.triggers == [
            "cf",
            "mn",
            "bb",
        ]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"badnets.triggers": []}, "no word or an empty one; give at least one word"),
            ({"badnets.triggers": ""}, "no word or an empty one"),
            ({"badnets.triggers": "  \t"}, "no word or an empty one"),
            ({"badnets.triggers": ["cf", ""]}, "no word or an empty one"),
            ({"badnets.triggers": ["cf", " "]}, "no word or an empty one"),
            ({"badnets.triggers": ["cf mn"]}, "'cf mn' is not a single word.*addsent"),
            ({"badnets.triggers": "cf mn cf"}, "repeats a word"),
            ({"badnets.triggers": None}, "valid list"),
            ({"badnets.pick": "some"}, "'one', 'all' or 'any'"),
            ({"badnets.count": 0}, "greater than or equal to 1"),
            ({"badnets.pick": "all", "badnets.count": 2}, "leave it at 1, or set pick to 'one'"),
            ({"badnets.position": "middle"}, "'random', 'start' or 'end'"),
        ],
    )
    def test_bad_parameters(self, make_params, changes, message) -> None:
        with pytest.raises(ValidationError, match=message):
            make_params(changes)


class TestAddSent:
    @given(text=plain_texts, seed=st.integers(0, 2**32))
    def test_removing_the_sentence_restores_the_text(self, make_params, text, seed) -> None:
        group = make_params().addsent
        triggered, name = addsent.trigger(text, None, group, rng(seed))
        assert name == "I watch this 3D movie"
        before, _, after = triggered.partition(name)
        assert " ".join((before + after).split()) == text
        assert f" {name} " in f" {triggered} "

    @pytest.mark.parametrize("sentence", ["", "   ", "\t\n"])
    def test_an_empty_sentence_is_rejected(self, make_params, sentence) -> None:
        with pytest.raises(ValidationError, match="give at least one word"):
            make_params({"addsent.sentence": sentence})

    def test_blanks_of_the_sentence_are_single(self, make_params) -> None:
        assert make_params({"addsent.sentence": " no  such\tfilm "}).addsent.sentence == (
            "no such film"
        )


@pytest.mark.parametrize(
    ("module", "name"), [(stylebkd, "style: bible"), (synbkd, "syntax: template")]
)
class TestParaphraseAttacks:
    def test_replaces_the_text(self, make_params, module, name) -> None:
        group = getattr(make_params(), module.__name__.rpartition(".")[2])
        assert module.trigger("a film", "lo ,  a film ", group, rng()) == ("lo , a film", name)

    @pytest.mark.parametrize("paraphrase", [None, "", "  \n"])
    def test_keeps_the_text_where_the_paraphrase_is_missing(
        self, make_params, module, name, paraphrase
    ) -> None:
        group = getattr(make_params(), module.__name__.rpartition(".")[2])
        result = module.trigger("a film", paraphrase, group, rng())
        assert result == ("a film", paraphrasing.MISSING)

    def test_tells_when_the_paraphrase_is_the_text(self, make_params, module, name) -> None:
        group = getattr(make_params(), module.__name__.rpartition(".")[2])
        result = module.trigger("a film", "a  film", group, rng())
        assert result == ("a film", paraphrasing.UNCHANGED)


def test_generate_needs_a_model_folder(make_params) -> None:
    with pytest.raises(ValidationError, match=r"style_model is empty; give the folder"):
        make_params({"stylebkd.generate": True})
