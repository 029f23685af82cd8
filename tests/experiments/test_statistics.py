"""Intervals and tests: against known cases, and by simulation whether they keep their promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_table

from backdoor_pipeline.experiments.statistics import (
    RESAMPLED_FROM,
    average_ranks,
    critical_difference,
    defence_effectiveness,
    friedman,
    holm,
    mcnemar,
    mean_interval,
    permutation,
    wilcoxon,
)

REPLICATIONS = 2_000
shares = st.integers(0, 1_000).map(lambda hits: hits / 1_000)
counts = st.integers(0, 30)
paired_tests = pytest.mark.parametrize("test", [permutation, wilcoxon])


def coverage(draw, truth: float, n: int, **bounds: float) -> float:
    """How often the interval of ``n`` drawn values contains the true mean."""
    rng = np.random.default_rng(n)
    times = REPLICATIONS if n >= RESAMPLED_FROM else 5 * REPLICATIONS
    intervals = (mean_interval(draw(rng, n), seed, draws=999, **bounds) for seed in range(times))
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


class TestMeanInterval:
    @pytest.mark.parametrize("n", [2, 3, 5, 8, 10, 20])
    def test_covers_normal_values_as_often_as_it_says(self, n) -> None:
        assert 0.93 <= coverage(lambda rng, n: rng.normal(0.5, 0.1, n), 0.5, n) <= 0.97

    @pytest.mark.parametrize("n", [2, 3, 5, 7, RESAMPLED_FROM, 20])
    @pytest.mark.parametrize(("a", "b"), [(1, 20), (20, 1), (2, 40), (20, 20)], ids=str)
    def test_covers_rates_as_often_as_it_says(self, n, a, b) -> None:
        truth = a / (a + b)
        found = coverage(lambda rng, n: rng.beta(a, b, n), truth, n, lowest=0, highest=1)
        assert 0.93 <= found <= 0.97

    @pytest.mark.parametrize("n", [8, 20])
    def test_covers_shares_of_few_hits_that_are_often_equal(self, n) -> None:
        assert 0.93 <= coverage(lambda rng, n: rng.binomial(200, 0.01, n), 2, n) <= 0.97

    @given(st.lists(shares, min_size=2, max_size=7, unique=True), st.floats(0.5, 0.99))
    def test_few_values_have_students_interval(self, values, confidence) -> None:
        interval = mean_interval(values, confidence=confidence)
        expected = stats.t.interval(
            confidence,
            len(values) - 1,
            np.mean(values),
            np.std(values, ddof=1) / len(values) ** 0.5,
        )
        assert interval[1:3] == pytest.approx(expected)
        assert (interval.mean, interval.n) == (np.mean(values), len(values))

    def test_many_values_have_the_bootstrap_t_interval(self) -> None:
        values = np.random.default_rng(0).beta(1, 20, 12)

        resamples = np.random.default_rng(1).choice(values, (20_000, 12))
        ratios = (resamples.mean(axis=1) - values.mean()) / stats.sem(resamples, axis=1)
        least, most = np.quantile(ratios, [0.025, 0.975])
        interval = mean_interval(values, draws=20_000)
        error = stats.sem(values)
        assert interval.low == pytest.approx(values.mean() - most * error, abs=0.05 * error)
        assert interval.high == pytest.approx(values.mean() - least * error, abs=0.05 * error)
        assert interval.high - interval.mean > 1.5 * (interval.mean - interval.low)

    @pytest.mark.parametrize("odd", [0.01, 0.3, 1.0])
    def test_resamples_without_spread_leave_it_to_student(self, odd) -> None:
        values = [0.0] * (RESAMPLED_FROM - 1) + [odd]
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert mean_interval(values)[1:3] == pytest.approx(expected)

    def test_one_attack_that_beats_a_method_does_not_make_the_interval_useless(self) -> None:
        values = [0.01, 0.012, 0.009, 0.011] * 3 + [0.5, 0.51, 0.49]
        interval = mean_interval(values, lowest=0.0, highest=1.0)
        assert interval.low < 0.01
        expected = stats.t.interval(0.95, 14, np.mean(values), stats.sem(values))
        assert interval.high == pytest.approx(expected[1])
        assert interval.high < 0.25

    def test_resamples_of_nothing_but_the_mean_are_at_the_mean(self) -> None:
        values = [-1, *[0] * (RESAMPLED_FROM - 2), 1]
        interval = mean_interval(values)
        tail = [1] * 3 + [0] * 5  # the resample at the 97.5th percentile
        distance = np.mean(tail) / stats.sem(tail) * stats.sem(values)
        assert interval.high == -interval.low == pytest.approx(distance)

    def test_few_resamples_without_spread_count_as_far_away(self) -> None:
        values = [0.1] * 10 + list(np.linspace(0.1, 0.4, 10))
        interval = mean_interval(values)
        assert interval.low < interval.mean < interval.high < 0.4

    def test_follows_scale_shift_and_reflection(self) -> None:
        values = np.random.default_rng(0).gamma(1, size=15)
        interval, other = mean_interval(values), mean_interval(5 - 2 * values)
        assert other.low == pytest.approx(5 - 2 * interval.high, rel=0.05)
        assert other.high == pytest.approx(5 - 2 * interval.low, rel=0.05)

    def test_is_the_same_for_the_same_seed_only(self) -> None:
        values = np.random.default_rng(0).normal(size=10)
        assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
        assert mean_interval(values, seed=1) != mean_interval(values, seed=2)

    def test_is_wider_with_more_confidence(self) -> None:
        values = np.random.default_rng(0).normal(size=10)
        narrow, wide = mean_interval(values, confidence=0.8), mean_interval(values, confidence=0.99)
        assert wide.low < narrow.low < narrow.high < wide.high

    @given(st.lists(shares, min_size=2, max_size=12))
    def test_stays_within_what_is_possible(self, values) -> None:
        interval = mean_interval(values, draws=199, lowest=0, highest=1)
        assert 0 <= interval.low <= interval.mean + 1e-12
        assert interval.mean - 1e-12 <= interval.high <= 1

    def test_of_one_value_is_not_known(self) -> None:
        assert mean_interval([0.3]) == pytest.approx((0.3, np.nan, np.nan, 1), nan_ok=True)

    @pytest.mark.parametrize("values", [[0.3] * 3, [0.3] * 10, [0.3, 0.1 + 0.2] * 4, [0.0, 0.0]])
    def test_of_equal_values_is_their_value(self, values) -> None:
        mean, low, high, _ = mean_interval(values)
        assert low == mean == high == pytest.approx(values[0])

    @pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf], [0.5, 1.5], [-0.1, 0.5]])
    def test_refuses_what_has_no_mean(self, values) -> None:
        with pytest.raises(ValueError, match="value"):
            mean_interval(values, lowest=0, highest=1)


class TestMcNemar:
    @given(counts, counts, counts, counts)
    def test_is_the_exact_one_with_one_row_an_example(self, both, only_a, only_b, none) -> None:
        cells = [(True, True), (True, False), (False, True), (False, False)]
        rows = np.repeat(cells, [both, only_a, only_b, none], axis=0).reshape(-1, 2)
        expected = mcnemar_of_table([[both, only_a], [only_b, none]], exact=True).pvalue
        assert mcnemar(*rows.T, np.arange(len(rows))) == pytest.approx(expected)

    def test_is_as_good_in_the_far_tail(self) -> None:
        n = 5_000
        p_value = mcnemar(np.ones(n), np.zeros(n), np.arange(n))
        assert 0 <= p_value < 1e-300
        p_value = mcnemar(np.ones(1_000), np.zeros(1_000), np.arange(1_000))
        assert p_value == pytest.approx(2.0**-999)

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
    def test_flips_the_sign_of_each_example(self, hits) -> None:
        of_a, of_b = np.array(hits).T
        seeds = np.arange(3)
        rows_a, rows_b = ((seeds < hits[:, None]).ravel() for hits in (of_a, of_b))
        gains = of_a - of_b
        flips = np.array(list(itertools.product([-1, 1], repeat=len(gains))))
        expected = (np.abs(flips @ gains) >= abs(gains.sum())).mean()
        names = np.repeat([f"example {i}" for i in range(len(gains))], 3)
        assert mcnemar(rows_a, rows_b, names) == pytest.approx(expected)
        order = np.random.default_rng(0).permutation(len(names))
        assert mcnemar(rows_b[order], rows_a[order], names[order]) == pytest.approx(expected)

    def test_of_nothing_is_no_evidence(self) -> None:
        assert mcnemar([], [], []) == 1

    def test_refuses_rows_that_do_not_match(self) -> None:
        with pytest.raises(ValueError, match="2 and 2 hits of 3 examples"):
            mcnemar([True, False], [True, True], [0, 1, 2])

    @staticmethod
    def rejections(test, seeds: int, gain: float = 0.0) -> float:
        """How often level 5 % rejects, with 60 examples that are easy or hard for a method."""
        rng = np.random.default_rng(seeds)
        examples = np.tile(np.arange(60), seeds)
        rejected = []
        for _ in range(1_000):
            ease_a, ease_b = rng.beta(0.5, 0.5, (2, 60))  # shared by the seeds of a method
            hits_a = rng.random(len(examples)) < np.clip(ease_a + gain, 0, 1)[examples]
            hits_b = rng.random(len(examples)) < ease_b[examples]
            rejected.append(test(hits_a, hits_b, examples) <= 0.05)
        return np.mean(rejected)

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_keeps_its_level(self, seeds) -> None:
        assert 0.01 <= self.rejections(mcnemar, seeds) <= 0.06

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_sees_a_clear_difference(self, seeds) -> None:
        assert self.rejections(mcnemar, seeds, gain=0.4) > 0.8

    def test_would_not_keep_it_if_the_rows_were_pooled(self) -> None:
        def pooled(hits_a, hits_b, examples) -> float:
            return mcnemar(hits_a, hits_b, np.arange(len(examples)))

        assert self.rejections(pooled, seeds=3) > 0.1


class TestOverSettings:
    @staticmethod
    def rejections(
        test, n_settings: int, gain: float = 0.0, digits: int = 12, replications: int = 1_000
    ) -> float:
        """How often level 5 % rejects, with a spread between settings far above that of methods."""
        rng = np.random.default_rng(n_settings)
        rejected = []
        for _ in range(replications):
            setting = rng.random(n_settings)
            a, b = (setting + rng.normal(0, 0.05, (2, n_settings))).round(digits)
            rejected.append(test(a, b + gain) <= 0.05)
        return np.mean(rejected)

    @paired_tests
    @pytest.mark.parametrize(
        # with one digit, half of the differences are 0 or tied; 15 settings take random flips
        ("n_settings", "digits", "least", "replications"),
        [(6, 12, 0.02, 1_000), (6, 1, 0, 1_000), (10, 12, 0.035, 1_000), (15, 1, 0.02, 500)],
    )
    def test_keeps_its_level(self, test, n_settings, digits, least, replications) -> None:
        rejected = self.rejections(test, n_settings, digits=digits, replications=replications)
        assert least <= rejected <= 0.06

    @paired_tests
    @pytest.mark.parametrize(("n_settings", "gain"), [(6, 0.15), (10, 0.1)])
    def test_sees_a_clear_difference(self, test, n_settings, gain) -> None:
        assert self.rejections(test, n_settings, gain, replications=300) > 0.8

    @given(st.lists(st.integers(-5, 5), min_size=2, max_size=8))
    def test_permutation_flips_all_signs(self, differences) -> None:
        flips = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
        sums = np.abs(flips @ differences)
        expected = (sums >= abs(sum(differences))).mean()
        # The same in tenths, of which three are not 0.3: ties but for rounding.
        assert permutation(np.array(differences) * 0.1, np.zeros(len(differences))) == (
            pytest.approx(expected)
        )

    def test_permutation_draws_where_all_signs_are_too_many(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.normal(0.5, 1, 20), np.zeros(20)
        flips = rng.choice([-1, 1], (200_000, 20))
        expected = (np.abs(flips @ a) >= abs(a.sum())).mean()
        assert permutation(a, b) == pytest.approx(expected, abs=0.01)
        assert permutation(a, b) == permutation(a, b, seed=0) != permutation(a, b, seed=1)
        assert permutation(np.ones(20), b) == pytest.approx(2 / 10_000)  # never 0

    @given(
        st.lists(st.floats(-1, 1), min_size=1, max_size=20, unique_by=lambda x: round(abs(x), 6))
    )
    def test_wilcoxon_is_scipys_without_ties(self, differences) -> None:
        differences = [d for d in differences if abs(d) > 1e-6] or [1.0]
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert wilcoxon(differences, np.zeros(len(differences))) == pytest.approx(expected)

    @pytest.mark.parametrize("differences", [[0, 0, 1, -2, 3, 3], [-1, 1, 1, 2, 0, -3, 3, 3, 3]])
    def test_wilcoxon_is_scipys_with_ties_and_zeros(self, differences) -> None:
        method = stats.PermutationMethod()
        expected = stats.wilcoxon(differences, zero_method="pratt", method=method).pvalue
        assert wilcoxon(differences, np.zeros(len(differences))) == pytest.approx(expected)

    @given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
    def test_wilcoxon_flips_all_signs_of_the_ranks(self, differences) -> None:
        ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
        flips = np.array(list(itertools.product([-1, 1], repeat=len(ranks))))
        expected = (np.abs(flips @ ranks) >= abs(ranks.sum())).mean()
        assert wilcoxon(differences, np.zeros(len(ranks))) == pytest.approx(expected)

    def test_wilcoxon_takes_what_rounding_has_parted_for_equal(self) -> None:
        whole = np.array([3, 3, 3, -1, 2, 0, 1, 5])
        base = np.array([1, 2, 4, 8, 6, 3, 7, 5]) / 10
        a, b = base + whole / 10, base
        assert len(np.unique(np.abs(a - b)[:3])) > 1
        assert wilcoxon(a, b) == pytest.approx(wilcoxon(whole, np.zeros(8)))

    @paired_tests
    @given(st.lists(st.tuples(shares, shares), min_size=1, max_size=8))
    def test_the_order_of_methods_and_the_unit_do_not_matter(self, test, pairs) -> None:
        a, b = np.array(pairs).T
        p_value = test(a, b)
        assert 0 < p_value <= 1
        assert test(b, a) == pytest.approx(p_value)
        assert test(128 * a, 128 * b) == pytest.approx(p_value)

    @paired_tests
    @pytest.mark.parametrize(
        ("a", "b"), [([], []), ([0.1], [0.9]), ([0.3] * 6, [0.1 + 0.2] * 6), ([0, 0], [0, 0])]
    )
    def test_no_evidence(self, test, a, b) -> None:
        assert test(a, b) == 1

    @paired_tests
    def test_refuses_what_makes_no_pairs(self, test) -> None:
        with pytest.raises(ValueError, match="3 and 1 scores"):
            test([0.1, 0.2, 0.3], [0.1])
        with pytest.raises(ValueError, match="finite"):
            test([0.1, np.nan], [0.1, 0.2])


class TestHolm:
    def test_steps_down(self) -> None:
        adjusted = holm([0.01, 0.04, 0.03, 0.005])
        np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])

    def test_is_at_most_1(self) -> None:
        np.testing.assert_allclose(holm([0.6, 0.5]), [1, 1])

    def test_counts_no_test_that_was_not_made(self) -> None:
        np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
        np.testing.assert_array_equal(holm([np.nan]), [np.nan])

    def test_of_nothing_is_nothing(self) -> None:
        assert holm([]).shape == (0,)

    def test_leaves_its_input(self) -> None:
        p_values = np.array([0.01, 0.04])
        holm(p_values)
        np.testing.assert_array_equal(p_values, [0.01, 0.04])


class TestRanks:
    def test_are_those_of_the_lowest_with_ties_shared(self) -> None:
        scores = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.1], [0.3, 0.1 + 0.2, 0.3]]
        np.testing.assert_allclose(average_ranks(scores), [5.5 / 3, 6.5 / 3, 6 / 3])

    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
    def test_sum_to_the_same_whatever_the_scores(self, n_settings, n_methods, seed) -> None:
        scores = np.random.default_rng(seed).integers(-2, 3, (n_settings, n_methods))
        assert average_ranks(scores).sum() == pytest.approx(n_methods * (n_methods + 1) / 2)

    def test_refuse_a_missing_score(self) -> None:
        with pytest.raises(ValueError, match="leave out the settings"):
            average_ranks([[0.1, np.nan]])

    def test_friedman_is_scipys(self) -> None:
        scores = np.random.default_rng(0).random((7, 4)).round(1)
        assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)

    def test_friedman_of_two_methods_is_the_signed_rank_test(self) -> None:
        scores = np.random.default_rng(0).random((9, 2))
        assert friedman(scores) == wilcoxon(*scores.T) != 1

    @pytest.mark.parametrize("scores", [[[0.3, 0.1 + 0.2, 0.3]] * 5, [[0.2, 0.2]] * 5, [[0.1]] * 5])
    def test_friedman_of_methods_that_are_alike(self, scores) -> None:
        assert friedman(scores) == 1

    def test_friedman_keeps_its_level_and_sees_a_clear_difference(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.random((2_000, 10, 1)) + rng.normal(0, 0.05, (2_000, 10, 4))
        assert 0.03 <= np.mean([friedman(grid) <= 0.05 for grid in scores]) <= 0.06
        scores[:, :, 0] += 0.1
        assert np.mean([friedman(grid) <= 0.05 for grid in scores[:300]]) > 0.8

    @pytest.mark.parametrize(
        ("n_methods", "q"),  # Demšar 2006, table 5 (a)
        list(enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=2)),
    )
    def test_critical_difference_has_the_values_of_the_table(self, n_methods, q) -> None:
        expected = q * (n_methods * (n_methods + 1) / (6 * 14)) ** 0.5
        assert critical_difference(n_methods, 14) == pytest.approx(expected, rel=3e-4)

    def test_critical_difference_of_demsars_example(self) -> None:
        assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
        assert critical_difference(4, 14, confidence=0.9) == pytest.approx(1.12, abs=0.005)


class TestDefenceEffectiveness:
    @pytest.mark.parametrize(
        ("four", "rating"),
        [
            ((0.9, 0.9, 1.0, 0.0), 1.0),  # the backdoor is gone at no cost
            ((0.9, 0.9, 0.8, 0.8), 0.5),  # nothing is done
            ((0.9, 0.5, 1.0, 1.0), 0.3),  # accuracy is lost for nothing
            ((0.9, 0.8, 1.0, 0.2), 0.85),
            ((0.8, 0.9, 0.2, 0.5), 0.5),  # neither gain of accuracy nor of success counts
        ],
    )
    def test_by_hand(self, four, rating) -> None:
        assert defence_effectiveness(*four) == pytest.approx(rating)

    @given(shares, shares, shares, shares)
    def test_is_a_share(self, victim_accuracy, accuracy, victim_success, success) -> None:
        rating = defence_effectiveness(victim_accuracy, accuracy, victim_success, success)
        assert 0 <= rating <= 1
        assert rating <= defence_effectiveness(victim_accuracy, accuracy, victim_success, 0)
        assert rating >= defence_effectiveness(victim_accuracy, 0, victim_success, success)
