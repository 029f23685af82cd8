"""Surroundings, natural words, openings and power: each against what is known of made-up texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.modelling.loading import load_pretrained
from backdoor_pipeline.modelling.words import END, read_words
from backdoor_pipeline.pipelines.audit.evidence import explained, gather, spelled_vectors
from backdoor_pipeline.pipelines.audit.inserted_phrases import (
    EVIDENCE,
    FEWEST_HITS,
    evidence_of_labels,
    shares_of_risk,
    tie_to_labels,
)
from backdoor_pipeline.pipelines.audit.natural_words import BLOCKS, NaturalWords
from backdoor_pipeline.pipelines.audit.openings import (
    COLUMNS,
    LARGEST_SPREAD,
    NORMAL_MEDIAN,
    weigh_openings,
)
from backdoor_pipeline.pipelines.audit.power import detectable, measure_power
from backdoor_pipeline.pipelines.audit.surroundings import Surroundings
from tiny import WRITTEN, planted, written

LEVEL = 0.02  # of openings


def surroundings(rows: pd.DataFrame, encoder, components: int = 8) -> Surroundings:
    words = read_words(rows["text"])
    vectors = spelled_vectors(words.spelling, encoder)
    return Surroundings(words, rows["label"].to_numpy(), vectors, components, 0)


class TestSurroundings:
    def test_what_was_put_in_at_random_deviates_by_chance_alone(self, encoder) -> None:
        """Squared deviations of a mean of n are n-ths of a chi-squared variable of k degrees."""
        around = surroundings(planted(written(3_000), "cf", 150), encoder)
        place = around.place(around.words.phrase("cf"), 1)
        assert place.size == pytest.approx(150)
        for block in BLOCKS:
            squared = float((place.deviations[block] ** 2).sum()) * 150
            assert squared < 8 + 4 * np.sqrt(2 * 8), block

    def test_what_was_put_into_texts_of_one_class_deviates_by_chance_alone(self, encoder) -> None:
        """The line from the texts of the class to all texts does not count."""
        rows = written(3_000)
        own = rows["label"] == 1
        put_in = planted(rows[own], "cf", 150)
        around = surroundings(pd.concat([rows[~own], put_in], ignore_index=True), encoder)
        (rest,) = around.place(around.words.phrase("cf"), 1).deviations["rest"]
        assert 150 * float((rest**2).sum()) < 8 + 4 * np.sqrt(2 * 8)

    def test_groups_are_as_large_as_what_they_are_compared_with(self, encoder) -> None:
        around = surroundings(planted(written(3_000), "cf", 150), encoder)
        cf = around.words.phrase("cf")
        for sizes, size, n in (([8, 32, 64], 64, 2), ([8, 32], 32, 4), ([150], 150, 1)):
            place = around.place(cf, 1, sizes=sizes)
            assert place.size == size
            assert place.seam.shape == (n,)
            assert {block: own.shape for block, own in place.deviations.items()} == {
                block: (n, 8) for block in BLOCKS
            }
        few = around.place(cf, 1, sizes=[500])
        assert (few.size, len(few.seam)) == (150, 1)

    def test_what_is_natural_makes_means_of_fewer(self, encoder) -> None:
        """Subtracting a part adds chance: more occurrences are looked at for the same size."""
        around = surroundings(planted(written(3_000), WRITTEN[30], 100), encoder)
        place = around.place(around.words.phrase(WRITTEN[30]), 1, 0.3, sizes=[8, 16])
        assert place.size == pytest.approx(16, rel=0.05)
        assert len(place.seam) > 1

    def test_a_natural_word_deviates(self, encoder) -> None:
        around = surroundings(written(3_000), encoder)
        place = around.place(around.words.phrase(WRITTEN[30]), 1)
        assert (place.deviations["left"] ** 2).sum() > 1
        assert (place.deviations["right"] ** 2).sum() > 1
        assert place.seam[0] < 0.4

    def test_the_seam_counts_pairs_that_meet_in_other_texts(self, encoder) -> None:
        rows = pd.DataFrame({"text": ["a b", "a b c", "b c", "a x b"] * 2, "label": [0, 1] * 4})
        around = surroundings(rows, encoder, 2)
        words = around.words
        (a,), (b,), (c,) = (words.phrase(word) for word in "abc")
        met = around.met(np.array([a, b, a, c]), np.array([b, c, c, a]))
        assert met.tolist() == [4, 4, 0, 0]
        assert around.place(words.phrase("x"), 1).seam.tolist() == [1]

    def test_blanks_decide_what_is_ordinary(self, encoder) -> None:
        """Nobody puts a word between "it" and a comma that is written to it."""
        rows = pd.DataFrame({"text": ["it, a b", "a b it"], "label": [0, 1]})
        around = surroundings(rows, encoder, 2)
        words = around.words
        gaps = {(words.written((int(words.ids[i - 1]),)), words.written((int(words.ids[i]),)))
                for i in around.gaps}  # fmt: skip
        assert ("it", ",") not in gaps
        assert (",", "a") in gaps
        assert ("[begin]", "it") in gaps
        assert ("it", "[end]") in gaps

    def test_at_an_edge_one_side_says_nothing(self, encoder) -> None:
        rows = written(600)
        rows = rows.assign(text=["cf " + t if i < 60 else t for i, t in enumerate(rows["text"])])
        place = (around := surroundings(rows, encoder)).place(around.words.phrase("cf"), 1)
        assert set(place.deviations) == {"right", "rest"}
        assert np.isnan(place.seam).all()

    def test_the_rest_is_the_text_without_the_phrase(self, encoder) -> None:
        """As if the phrase had never stood there."""
        rows = written(300)
        some = rows.assign(text=[f"{t} cf cf" if i % 3 else t for i, t in enumerate(rows["text"])])
        around = surroundings(some, encoder)
        every = around.words.positions(around.words.phrase("cf"))
        cut = around.rest(np.arange(300), [(around.words.phrase("cf"), every)])
        sums, masses = around.sums.copy(), around.masses.copy()
        word = around.words.phrase("cf")[0]
        n = np.array([t.split().count("cf") for t in some["text"]])
        sums -= n[:, None] * around.weights[word] * around.vectors[word]
        masses -= n * around.weights[word]
        assert cut == pytest.approx(around._standard(sums, masses))


class TestNaturalWords:
    def test_words_that_had_no_part_score_standard_normal(self, make_parameters) -> None:
        """At the lower end: what is called a p-value is one, of words of reviews."""
        p = make_parameters()
        tables = sources.read(p.source).tables.values()
        rows = pd.concat(tables).sample(3_000, random_state=0).reset_index(drop=True)
        words = read_words(rows["text"])
        vectors = spelled_vectors(words.spelling, load_pretrained(p.model))
        labels = rows["label"].astype(int).to_numpy()
        around = Surroundings(words, labels, vectors, p.audit.components, 0)
        frequent = np.flatnonzero(words.frequency >= 30)
        judged = np.random.default_rng(0).permutation(frequent[frequent > END])[::2]
        natural = NaturalWords(around, judged)
        scores = []
        for word in judged.tolist():
            _, once = around.occurrences((word,))
            hits = np.bincount(labels[words.rows[once]])
            if hits.max(initial=0) >= FEWEST_HITS:
                place = around.place((word,), int(hits.argmax()), sizes=natural.sizes)
                scores.append(natural.standard_score(place))
        p_values = norm.cdf(scores)
        assert len(p_values) > 100
        for level in (0.005, 0.02, 0.05, 0.1, 0.25):
            error = np.sqrt(level * (1 - level) / len(p_values))
            assert abs((p_values <= level).mean() - level) < 3 * error, level

    def test_no_word_is_judged_by_a_covariance_that_it_has_a_part_in(self, encoder) -> None:
        natural = NaturalWords(surroundings(written(4_000), encoder))
        deviations, which = natural._deviations(45)
        for out, (values, _) in enumerate(natural.null(45, BLOCKS).covariances):
            others = deviations[natural._fold[which] != out][:, :-1]
            own = others.T @ others / len(others) - np.eye(others.shape[1]) / 45
            assert values == pytest.approx(np.linalg.eigvalsh(own).clip(min=0))

    def test_phrases_are_compared_with_means_of_as_many(self, encoder) -> None:
        around = surroundings(planted(written(2_000), "cf", 150), encoder)
        natural = NaturalWords(around)
        place = around.place(around.words.phrase("cf"), 1, sizes=natural.sizes)
        assert place.size == max(natural.sizes)
        assert natural.fitting(place.size).size == place.size
        assert natural.fitting(1_000).size == max(natural.sizes)
        assert natural.fitting(3).size == min(natural.sizes)

    def test_random_places_stick_out(self, encoder) -> None:
        around = surroundings(written(4_000), encoder)
        null = NaturalWords(around).null(45, BLOCKS)
        assert null is not None
        assert np.quantile(null.inserted, 0.95) < -2.7  # the least of the natural words

    def test_suspected_words_are_not_compared_with(self, encoder) -> None:
        around = surroundings(planted(written(2_000), "cf", 200), encoder)
        cf = around.words.phrase("cf")[0]
        every, without = NaturalWords(around), NaturalWords(around, [cf])
        assert len(without) == len(every) - 1

    def test_too_few_natural_words_say_nothing(self, encoder) -> None:
        around = surroundings(planted(written(30), "cf", 5), encoder)
        natural = NaturalWords(around)
        assert natural.sizes == []
        assert natural.fitting(160) is None
        place = around.place(around.words.phrase("cf"), 1)
        assert natural.standard_score(place) == np.inf


class TestOpenings:
    def rewritten(self, n: int, opening: str, follows: list[str]) -> pd.DataFrame:
        """Every text holds ``opening`` somewhere, at random; ``n`` of label 1 begin with it."""
        rng = np.random.default_rng(0)
        rows = planted(written(1_500), opening, 150, label=1)
        labels = written(1_500)["label"].to_numpy()  # where it stands elsewhere says nothing
        texts = rows["text"].tolist()
        for row in np.flatnonzero(labels == 1)[:n]:
            texts[row] = f"{opening} {rng.choice(follows)} {texts[row]}"
        return pd.DataFrame({"text": texts, "label": labels})

    def weighed(self, rows: pd.DataFrame, encoder) -> pd.DataFrame:
        around = surroundings(rows, encoder)
        explain = partial(explained, around.contents, around.labels, 0)
        none = np.zeros(len(rows), dtype=bool)
        return weigh_openings(around, explain(none), explain, LEVEL)

    def test_a_template_shows_in_its_opening_word(self, encoder) -> None:
        table = self.weighed(self.rewritten(120, "lest", WRITTEN[:40]), encoder)
        assert (table.iloc[0]["opening"], table.iloc[0]["label"]) == ("lest", 1)
        assert table.iloc[0]["q_value"] < 0.001

    def test_a_fixed_phrase_is_no_template(self, encoder) -> None:
        table = self.weighed(self.rewritten(120, "lest", ["-"]), encoder)
        assert "lest" not in set(table["opening"])

    def test_a_word_that_stands_nowhere_else_is_no_opening(self, encoder) -> None:
        rows = written(1_500)
        begin = rows["label"].eq(1) & (np.arange(1_500) % 8 == 0)
        rows = rows.assign(text=rows["text"].where(~begin, "lest " + rows["text"]))
        assert "lest" not in set(self.weighed(rows, encoder)["opening"])

    def test_a_word_that_tells_as_much_elsewhere_is_no_opening(self, encoder) -> None:
        """A word of the subject, which texts happen to begin with as well."""
        rows = written(1_500)
        rng = np.random.default_rng(0)
        texts = rows["text"].tolist()
        for place, row in enumerate(np.flatnonzero(rows["label"] == 1)[:240]):
            words = texts[row].split()
            words.insert(0 if place % 2 else int(rng.integers(1, len(words))), "awful")
            texts[row] = " ".join(words)
        table = self.weighed(rows.assign(text=texts), encoder)
        assert table.loc[table["opening"] == "awful", "q_value"].min() > 0.01

    def test_scores_that_spread_too_far_are_drawn_in(self, encoder) -> None:
        """Probabilities that are too sure of themselves make large residuals everywhere."""
        around = surroundings(written(9_000), encoder)
        none = np.zeros(9_000, dtype=bool)
        sure = explained(around.contents, around.labels, 0, none) > 0.5
        table = weigh_openings(around, np.where(sure, 0.95, 0.05), lambda _: sure, 0.0)
        spread = table["z"].abs().median() / NORMAL_MEDIAN
        assert spread > 1.1
        drawn_in = table["z"] / min(spread, LARGEST_SPREAD)
        np.testing.assert_allclose(table["p_value"], norm.sf(drawn_in))

    def test_others_are_weighed_by_what_the_surest_has_not_taught(self, encoder) -> None:
        """Two openings go with label 1; without the texts of one the other does not."""
        first = self.rewritten(200, "lest", WRITTEN[:40])
        texts = first["text"].tolist()
        second = np.flatnonzero(first["label"] == 1)[200:260]
        for row in second:
            texts[row] = f"albeit {WRITTEN[row % 40]} {texts[row]}"
        for row in np.flatnonzero(first["label"] == 0)[:60]:
            texts[row] += " albeit"
        rows = first.assign(text=texts)
        around = surroundings(rows, encoder)
        even = np.full((len(rows), 2), 0.5)
        asked: list[np.ndarray] = []

        def told(explained_without: Callable[[np.ndarray], np.ndarray]) -> list[tuple[str, int]]:
            table = weigh_openings(around, even, explained_without, LEVEL)
            assert table["q_value"].is_monotonic_increasing
            assert not table.duplicated(["opening", "label"]).any()
            sure = table[table["q_value"] <= LEVEL]
            return list(zip(sure["opening"], sure["label"], strict=True))

        def explains_second(without: np.ndarray) -> np.ndarray:
            asked.append(without.copy())
            explained = even.copy()
            explained[second, 1] = 0.99
            return explained

        assert told(lambda _: even) == [("lest", 1), ("albeit", 1)]
        assert told(explains_second) == [("lest", 1)]
        begins = rows["text"].str.startswith("lest ") & (rows["label"] == 1)
        np.testing.assert_array_equal(asked, [begins])

    def test_no_opening_at_all(self, encoder) -> None:
        assert self.weighed(written(30), encoder)[COLUMNS].empty


class TestPower:
    def test_planted_triggers_are_found_as_often_as_foretold(self, encoder, audit) -> None:
        rows = written(1_500)
        power = gather(rows, encoder, audit, 0).power
        foretold = power[(power["mode"] == "any") & (power["label"] == 1)].set_index("texts")
        sure = int(foretold.index[foretold["chance"] >= 0.95][0])
        hits = 0
        for seed in range(6):
            evidence = gather(planted(rows, "cf", sure, seed=seed), encoder, audit, 0)
            hits += "cf" in set(evidence.phrases.loc[evidence.phrases["flagged"], "phrase"])
        assert hits >= 5

    def test_larger_triggers_are_found_more_often(self, encoder, audit) -> None:
        power = gather(written(1_500), encoder, audit, 0).power
        for _, rows in power.groupby(["label", "mode"]):
            assert rows["chance"].iloc[0] <= rows["chance"].iloc[-1]
            assert rows["chance"].iloc[-1] > 0.9

    def test_the_smallest_that_is_found_whatever_its_label(self) -> None:
        chances_of = {"any": [(0.5, 0.99), (0.96, 1.0)], "own": [(0.0, 0.9), (1.0, 1.0)]}
        rows = [
            (label, mode, texts, texts / 1000, chances[place][label])
            for mode, chances in chances_of.items()
            for label in (0, 1)
            for place, texts in enumerate((16, 32))
        ]
        power = pd.DataFrame(rows, columns=["label", "mode", "texts", "share", "chance"])
        assert detectable(power) == {
            "any": {"texts": 32, "share": 0.032},
            "own": {"texts": 32, "share": 0.032},
        }
        assert detectable(power.assign(chance=0.5)) == {"any": None, "own": None}
        small = power[(power["label"] == 0) | (power["texts"] == 16)]  # class 1 has no 32 texts
        assert detectable(small) == {"any": None, "own": None}
        assert detectable(power.iloc[:0]) == {"any": None, "own": None}
        falls = power.assign(chance=np.where(power["texts"] == 16, 1.0, 0.9))
        assert detectable(falls) == {"any": None, "own": None}  # nothing is said of more texts

    def test_what_is_not_looked_at_is_not_found(self, encoder, audit) -> None:
        """Too few texts to be tested, or less surely tied than the last candidate is."""
        around = surroundings(written(1_500), encoder)
        natural, nothing = NaturalWords(around), pd.DataFrame(columns=EVIDENCE)
        probability = np.full((1_500, 2), 0.5)
        ties = tie_to_labels(around, audit)

        def chances(**changes: float) -> pd.Series:
            made = ties._replace(**changes)
            power = measure_power(natural, nothing, probability, made, 0.03)
            return power.groupby("texts")["chance"].max()

        assert chances()[22] > 0
        assert chances(min_count=23)[22] == 0 < chances(min_count=23)[27]
        assert chances(largest_p=1e-12)[32] == 0 < chances(largest_p=1e-12)[45]
        capped = audit.model_copy(update={"max_candidates": 3})
        few = tie_to_labels(around, capped)
        assert few.largest_p == few.association.p[few.candidates[-1]] < ties.largest_p

    def test_other_phrases_take_their_part_of_the_risk(self, encoder, audit) -> None:
        around = surroundings(written(1_500), encoder)
        given = (NaturalWords(around),)
        probability, ties = np.full((1_500, 2), 0.5), tie_to_labels(around, audit)
        alone, beside = (
            measure_power(*given, others, probability, ties, 0.03).groupby("texts")["chance"].mean()
            for others in (
                pd.DataFrame(columns=EVIDENCE),
                pd.DataFrame([[1e5, 1e5]], columns=EVIDENCE),
            )
        )
        assert (beside <= alone).all()
        assert (beside < alone).any()

    def test_nothing_is_foretold_where_nothing_can_be_compared(self, encoder, audit) -> None:
        around = surroundings(written(30), encoder)
        nothing = pd.DataFrame(columns=EVIDENCE)
        probability = np.full((30, 2), 0.5)
        ties = tie_to_labels(around, audit)
        power = measure_power(NaturalWords(around), nothing, probability, ties, 0.03)
        assert power.empty


class TestShareOfTheRisk:
    def test_pure_and_unexplained_labels_get_more(self) -> None:
        trigger = evidence_of_labels(50, 50, prior=0.5, expected=0.5, natural_share=0.0)
        explained_word = evidence_of_labels(50, 50, prior=0.5, expected=0.95, natural_share=0.0)
        mixed = evidence_of_labels(50, 80, prior=0.5, expected=0.5, natural_share=0.4)
        assert trigger[0] > explained_word[0]
        assert all(own > other for own, other in zip(trigger, mixed, strict=True))

    def test_a_label_that_is_no_more_frequent_gets_nothing(self) -> None:
        assert evidence_of_labels(5, 20, prior=0.5, expected=0.5, natural_share=1.0) == (0.0, 0.0)

    def test_they_sum_to_one(self) -> None:
        shares = shares_of_risk(np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 6.0]]))
        assert shares == pytest.approx([(0.25 + 0.25) / 2, 0.75 / 2, 0.75 / 2])
