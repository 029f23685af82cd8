"""What a difference between methods is worth: intervals, paired tests, ranks over settings.

The choice of tests is that of Demšar, "Statistical Comparisons of Classifiers over Multiple Data
Sets" (JMLR 7, 2006); a setting of the grid, a mean over its seeds, stands for a data set. Every
test is two-sided and of the hypothesis that the methods are alike; where nothing differs, or
nothing is given, its p-value is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.exact_tests import sign_flips

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

TOO_FAR = 3  # times Student's quantile; resamples that reach further tell of gaps between values
RESAMPLED_FROM = 8  # values; with 5, resampling widens the interval of normal values by a half
WIDENED = 5  # chosen by simulation, so that few rates near 0 are covered as often as many
ALIKE = 1e-12  # relative to the largest value; numbers closer than that differ by rounding only


class Interval(NamedTuple):
    """A mean over seeds or settings with its confidence interval and their number."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(
    values: ArrayLike,
    seed: int = 0,
    confidence: float = 0.95,
    draws: int = 9_999,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Interval:
    """The mean with its studentised bootstrap interval (Efron & Tibshirani 1993, ch. 12.5).

    From ``RESAMPLED_FROM`` values on, they are resampled. Fewer cannot be: 3 values have too few
    distinct resamples to cover more than 75 %. They have Student's t; rates, between 0 and 1, on
    the arcsine scale, where they are less skewed. Their mean is not where the middle of that scale
    comes back to; the end beyond it is moved out by ``WIDENED`` times the difference.

    Measured at nominal 95 %: normal values are covered in 95 % of samples of any size, rates near 0
    or 1, Beta(1, 20), in 93 to 95 % (by Student's t alone in 89 %).

    Args:
        values: One number a seed or setting, independent of each other, shape (n,).
        seed: Of the resamples.
        confidence: Nominal coverage.
        draws: Number of resamples.
        lowest: Least possible value, 0 for a rate; the interval stays above.
        highest: Largest possible value, 1 for a rate; the interval stays below.

    Returns:
        The interval; its ends are NaN for one value and the mean where all are equal.

    Raises:
        ValueError: No value, or one that is not finite or not between ``lowest`` and ``highest``.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("no values: a mean of nothing is undefined")
    if not (np.isfinite(values) & (lowest <= values) & (values <= highest)).all():
        raise ValueError(f"values must be finite and within [{lowest}, {highest}]: {values}")
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, n)
    if np.ptp(values) <= ALIKE * np.abs(values).max():
        return Interval(mean, mean, mean, n)
    tails = np.array([1 - confidence, 1 + confidence]) / 2
    if n < RESAMPLED_FROM and (lowest, highest) == (0, 1):
        low, high = _on_the_arcsine_scale(values, tails)
        return Interval(mean, float(low), float(high), n)
    error = values.std(ddof=1) / np.sqrt(n)
    least, most = error * _studentised(values, tails, seed, draws)
    return Interval(mean, max(lowest, float(mean - most)), min(highest, float(mean - least)), n)


def _on_the_arcsine_scale(rates: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """The ends of the interval of the mean of few rates."""
    from scipy.special import stdtrit

    angles = np.arcsin(np.sqrt(rates))
    error = angles.std(ddof=1) / np.sqrt(len(angles))
    ends = (angles.mean() + stdtrit(len(angles) - 1, tails) * error).clip(0, np.pi / 2)
    off = WIDENED * (rates.mean() - np.sin(angles.mean()) ** 2)
    return (np.sin(ends) ** 2 + [min(off, 0), max(off, 0)]).clip(0, 1)


def _studentised(values: np.ndarray, tails: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Quantiles at ``tails`` of a resample's mean, in its own standard errors from the mean."""
    from scipy.special import stdtrit

    n = len(values)
    students = stdtrit(n - 1, tails)
    if n >= RESAMPLED_FROM:
        standard = (values - values.mean()) / values.std()
        drawn = np.random.default_rng(seed).choice(standard, (draws, n))
        means = drawn.mean(axis=1).round(12)
        errors = (drawn.std(axis=1, ddof=1) / np.sqrt(n)).round(12)  # exactly 0 for equal values
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(means == 0, 0, means / errors)
        quantiles = np.quantile(ratios, tails, method="inverted_cdf")
        if np.abs(quantiles).max() <= TOO_FAR * students[1]:
            return quantiles
        # Values stand in two far groups, or many are equal: resamples of one group alone, which
        # have hardly any spread, reach the tails and would make the interval as wide as it can be.
    return students


def mcnemar(hits_a: ArrayLike, hits_b: ArrayLike, examples: ArrayLike) -> float:
    """McNemar's exact p-value for two methods on the same examples, each seen once or more often.

    Rows of one example (one a seed) are not independent; a test that pools them rejects too often.
    An example therefore counts once, with the hits that one method has more than the other. Seeds
    are taken as given: the p-value speaks of other examples, not of other seeds.

    Args:
        hits_a: Whether the first method is right, bool, shape (n_rows,).
        hits_b: The same of the second method.
        examples: What tells the examples apart, shape (n_rows,).

    Raises:
        ValueError: The three differ in length.
    """
    hits_a, hits_b = np.asarray(hits_a, dtype=bool), np.asarray(hits_b, dtype=bool)
    examples = np.asarray(examples)
    if not hits_a.shape == hits_b.shape == examples.shape:
        raise ValueError(f"{len(hits_a)} and {len(hits_b)} hits of {len(examples)} examples")
    _, example = np.unique(examples, return_inverse=True)
    return sign_flips(np.bincount(example, hits_a.astype(int) - hits_b).astype(int))


def permutation(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """Sign-flip permutation test of the mean difference of two methods over settings.

    Args:
        a: Scores of the first method, shape (n_settings,).
        b: Scores of the second method in the same settings.
        seed: Of the 9,999 random flips that stand for all of them from 14 settings on.

    Raises:
        ValueError: The two differ in length, or a score is not finite.
    """
    from scipy.stats import permutation_test

    differences = _differences(a, b)
    if len(differences) == 1 or not differences.any():
        return 1.0
    shares = differences / np.abs(differences).sum()

    def total(shares: np.ndarray, axis: int) -> np.ndarray:
        return shares.sum(axis=axis).round(12)  # sums that are equal but for rounding are ties

    return float(
        permutation_test(
            (shares,),
            total,
            permutation_type="samples",
            vectorized=True,
            n_resamples=9_999,
            random_state=np.random.default_rng(seed),
        ).pvalue
    )


def wilcoxon(a: ArrayLike, b: ArrayLike) -> float:
    """Wilcoxon's signed-rank test of two methods over settings, exact with ties and zeros too.

    Zeros are ranked and then left out (Pratt 1959). To split them, as Demšar does, keeps the level
    too, but rejects half as often where half of the settings are alike.

    Args:
        a: Scores of the first method, shape (n_settings,).
        b: Scores of the second method in the same settings.

    Raises:
        ValueError: The two differ in length, or a score is not finite.
    """
    from scipy.stats import rankdata

    differences = _differences(a, b)
    twice = (2 * rankdata(np.abs(differences))).astype(int)  # ranks of ties end in a half
    return sign_flips(np.sign(differences).astype(int) * twice)


def _differences(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """``a - b``, shape (n,), without rounding: sizes that are alike are equal, or zero."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} scores make no pairs")
    return np.sign(a - b) * _levelled(np.abs(a - b), scale=np.abs([a, b]).max(initial=0))


def _levelled(values: ArrayLike, scale: float | None = None) -> np.ndarray:
    """``values`` with those made equal that differ by less than ``ALIKE`` of ``scale``."""
    values = np.asarray(values, dtype=float)
    scale = np.abs(values).max(initial=0) if scale is None else scale
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite; leave out the settings that a method lacks")
    steps = np.sort(np.append(values, 0.0))
    steps = steps[np.diff(steps, prepend=-np.inf) > ALIKE * scale]
    return steps[np.searchsorted(steps, values, side="right") - 1]


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values, shape (n,); NaN is no test, stays and does not count."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, dtype=float)
    tested = ~np.isnan(adjusted)
    if tested.any():
        adjusted[tested] = multipletests(adjusted[tested], method="holm")[1]
    return adjusted


def average_ranks(scores: ArrayLike) -> np.ndarray:
    """Mean rank of each method over settings, shape (n_methods,); ties share their mean rank.

    Args:
        scores: Lower is better, shape (n_settings, n_methods).

    Raises:
        ValueError: A score is not finite.
    """
    from scipy.stats import rankdata

    return rankdata(_levelled(scores), axis=1).mean(axis=0)


def friedman(scores: ArrayLike) -> float:
    """Friedman's test that all methods are alike (Demšar 2006, section 3.2.2).

    Of two methods it would be the sign test; they get the signed-rank test, which sees more.

    Args:
        scores: Shape (n_settings, n_methods).

    Raises:
        ValueError: A score is not finite.
    """
    from scipy.stats import friedmanchisquare

    scores = _levelled(scores)
    first, *others = scores.T
    if all((first == other).all() for other in others):
        return 1.0
    if len(others) == 1:
        return wilcoxon(first, *others)
    return float(friedmanchisquare(*scores.T).pvalue)


def critical_difference(n_methods: int, n_settings: int, confidence: float = 0.95) -> float:
    """By how much average ranks must differ to be told apart (Nemenyi; Demšar 2006, eq. in 3.2.2).

    It is q * sqrt(k (k + 1) / (6 N)) for k methods and N settings, with q the quantile of the
    studentised range for k means and infinite degrees of freedom, over sqrt(2).
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(confidence, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_settings)))


def defence_effectiveness(
    victim_accuracy: float, accuracy: float, victim_success: float, success: float
) -> float:
    """Defence effectiveness rating of BackdoorBench, in [0, 1]; 0.5 is a defence that does nothing.

    It is (max(0, fall of attack success) - max(0, fall of clean accuracy) + 1) / 2 from the victim
    to the defended model, as in Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with
    Sharpness-Aware Minimization" (ICCV 2023, evaluation metrics). All four are fractions.
    """
    gain, cost = max(0.0, victim_success - success), max(0.0, victim_accuracy - accuracy)
    return (gain - cost + 1) / 2
