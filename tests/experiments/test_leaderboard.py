from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from backdoor_pipeline.experiments import statistics
from backdoor_pipeline.experiments.leaderboard import (
    CELL,
    CELLS,
    average_ranks,
    common,
    leaderboard,
    overall,
    scores,
    settings,
    varying,
)
from made_up_grid import cell, failed, table

NOT_IMPLANTED = {"valid": False, "victim_attack_success_rate": 0.12}
between_recipes = pytest.mark.parametrize(
    ("test", "n_recipes"),
    [(statistics.permutation, 2), (statistics.wilcoxon, 2), (statistics.friedman, 3)],
)


def rates(*values: float, name: str = "attack_success_excess", **others: object) -> list[dict]:
    """Cells of consecutive seeds in which the rate ``name`` has these values."""
    return [cell(**{name: value}, seed=seed, **others) for seed, value in enumerate(values)]


def over_attacks(recipe: str, *excesses: tuple[float, ...]) -> list[dict]:
    """Cells of a recipe: an attack for each tuple, with the excess of consecutive seeds."""
    return [
        row
        for place, values in enumerate(excesses)
        for row in rates(*values, recipe=recipe, attack=f"attack {place}")
    ]


class TestCells:
    def test_grid_is_one(self, grid):
        assert len(CELLS.validate(grid)) == 54

    def test_every_kind_of_row_is_one(self):
        missing = failed(seed=2, status="missing", error=None)
        rows = table(cell(), failed(seed=1), missing, cell(seed=3, **NOT_IMPLANTED))
        checked = CELLS.validate(rows)
        assert checked["flagged"].dtype == "float64"
        pd.testing.assert_series_equal(checked["valid"], rows["valid"])

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            ([cell(), cell()], "unique"),
            ([cell(status="running")], "isin"),
            ([cell(clean_accuracy=88.0)], "in_range"),
            ([cell(clean_accuracy=np.nan)], "lacks a measurement"),
            ([cell(predictions=None)], "lacks a measurement"),
        ],
    )
    def test_others_are_not(self, rows, told):
        with pytest.raises(pandera.errors.SchemaError, match=told):
            CELLS.validate(table(*rows))


class TestLeaderboard:
    def test_means_and_intervals_by_hand(self):
        row = leaderboard(table(*rates(0.1, 0.2, 0.3))).iloc[0]
        # mean 0.2, standard deviation 0.1, Student's t with 2 degrees of freedom 4.3027
        half = 4.302652730 * 0.1 / np.sqrt(3)
        assert row["attack_success_excess"] == pytest.approx(0.2)
        assert row["attack_success_excess_low"] == pytest.approx(max(0, 0.2 - half))
        assert row["attack_success_excess_high"] == pytest.approx(0.2 + half)
        assert row["seeds"] == 3 and row["note"] == ""

    def test_loss_and_rating_by_hand(self):
        rows = [
            cell(victim_clean_accuracy=0.9, clean_accuracy=0.8, attack_success_rate=0.2),
            cell(victim_clean_accuracy=0.9, clean_accuracy=0.94, attack_success_rate=0.4, seed=1),
        ]
        row = leaderboard(table(*rows)).iloc[0]
        assert row["clean_accuracy_loss"] == pytest.approx((0.1 - 0.04) / 2)
        assert row["clean_accuracy_loss_low"] < 0 < row["clean_accuracy_loss_high"]
        # (0.8 - 0.1 + 1) / 2 and (0.6 - 0 + 1) / 2: a gain of accuracy is not counted
        assert row["defence_effectiveness"] == pytest.approx((0.85 + 0.8) / 2)

    def test_success_below_the_floor_is_weighed_against_success_above_it(self):
        floors = {"attack_success_floor": 0.2}
        rows = [
            cell(attack_success_rate=rate, seed=seed, **floors)
            for seed, rate in enumerate((0.16, 0.2, 0.24))
        ]
        row = leaderboard(table(*rows)).iloc[0]
        assert [r["attack_success_excess"] for r in rows] == pytest.approx([0, 0, 0.05])
        assert row["attack_success_excess"] == pytest.approx(0)
        assert row["attack_success_excess_low"] == 0
        half = 4.302652730 * 0.05 / np.sqrt(3)
        assert row["attack_success_excess_high"] == pytest.approx(half)

    def test_one_seed_has_no_interval(self):
        row = leaderboard(table(cell())).iloc[0]
        assert row["clean_accuracy"] == 0.88
        assert np.isnan(row["clean_accuracy_low"]) and np.isnan(row["clean_accuracy_high"])

    def test_detection_and_cost_are_means(self):
        rows = [cell(flagged=1.0, wall_seconds=10.0), cell(flagged=2.0, wall_seconds=30.0, seed=1)]
        row = leaderboard(table(*rows)).iloc[0]
        assert (row["flagged"], row["wall_seconds"], row["clean_rows"]) == (1.5, 20.0, 0.0)

    def test_only_valid_done_seeds_count(self):
        rows = table(cell(), cell(seed=1, clean_accuracy=0.1, **NOT_IMPLANTED), failed(seed=2))
        row = leaderboard(rows).iloc[0]
        assert row["clean_accuracy"] == 0.88 and row["victim_attack_success_rate"] == 1.0
        assert row[["seeds", "invalid", "failed", "missing"]].tolist() == [1, 1, 1, 0]

    @pytest.mark.parametrize(
        ("poison_rate", "note"), [(0.1, "attack not implanted"), (0, "nothing was poisoned")]
    )
    def test_without_an_attack_there_is_nothing_on_it(self, poison_rate, note):
        invalid = cell(**NOT_IMPLANTED, poison_rate=poison_rate, clean_accuracy=0.85, flagged=3.0)
        row = leaderboard(table(invalid, failed(seed=1, poison_rate=poison_rate))).iloc[0]
        assert row["note"] == note and row["seeds"] == 0 and row["invalid"] == 1
        assert row["victim_attack_success_rate"] == 0.12 and row["attack_success_floor"] == 0.1
        assert row["clean_accuracy"] == 0.85 and row["flagged"] == 3.0
        attack = ["attack_success_rate", "attack_success_excess", "defence_effectiveness"]
        assert row[attack].isna().all()

    def test_failed_rows_stay_with_the_first_line_of_their_error(self):
        row = leaderboard(table(failed(), failed(seed=1, error="another"))).iloc[0]
        assert row["note"] == "OSError: disk <full>" and row["failed"] == 2
        assert np.isnan(row["victim_attack_success_rate"])

    @pytest.mark.parametrize("error", [None, np.nan, " \n"])
    def test_errors_may_say_nothing(self, error):
        assert leaderboard(table(failed(error=error)))["note"].tolist() == ["failed"]

    def test_what_did_not_run_says_so(self):
        rows = leaderboard(table(failed(status="missing", error=None)))
        assert rows["note"].tolist() == ["not run"] and rows["missing"].tolist() == [1]

    def test_rows_come_in_the_order_of_the_cells(self, grid):
        rows = leaderboard(grid)
        assert rows["recipe"].tolist() == ["btu_calibrated", "btu", "btu + fine-tune"] * 6
        assert rows["dataset"].tolist() == ["sst2"] * 9 + ["hsol@repaired"] * 9

    def test_settings_are_kept_apart(self):
        rows = leaderboard(table(cell(), cell(poison_rate=0.05), cell(label_mode="clean")))
        assert len(rows) == 3

    def test_input_is_not_changed(self, grid):
        before = grid.copy()
        leaderboard(grid), overall(grid)
        pd.testing.assert_frame_equal(grid, before)


class TestOverall:
    def test_only_common_cells_count(self):
        rows = table(
            *rates(0.1, 0.2, recipe="a"), *rates(0.3, recipe="b"), failed(seed=1, recipe="b")
        )
        means = overall(rows).set_index("recipe")
        assert means["cells"].tolist() == means["settings"].tolist() == [1, 1]
        assert means["attack_success_excess"].to_dict() == pytest.approx({"a": 0.1, "b": 0.3})
        assert means.loc["b", ["valid", "failed"]].tolist() == [1, 1]

    def test_invalid_cells_are_not_common(self):
        rows = table(*(cell(recipe=r, seed=s, valid=s == 0) for r in "ab" for s in range(2)))
        assert common(rows)["seed"].tolist() == [0, 0]

    def test_means_over_settings_by_hand(self):
        rows = over_attacks("a", (0.1, 0.3), (0.3, 0.3, 0.6), (0.3, 0.3, 0.3))
        row = overall(table(*rows)).iloc[0]
        # means of seeds 0.2, 0.4, 0.3: mean 0.3, standard deviation 0.1, Student's t as above
        half = 4.302652730 * 0.1 / np.sqrt(3)
        assert row["attack_success_excess"] == pytest.approx(0.3)
        assert row["attack_success_excess_low"] == pytest.approx(0.3 - half)
        assert row["attack_success_excess_high"] == pytest.approx(0.3 + half)
        assert row[["settings", "cells"]].tolist() == [3, 8]

    def test_mean_over_settings_with_interval(self, grid):
        means = overall(grid).set_index("recipe")
        losses = common(grid)[lambda rows: rows["recipe"] == "btu"].set_index(["dataset", "attack"])
        losses = losses["victim_clean_accuracy"] - losses["clean_accuracy"]
        losses = [losses[setting].mean() for setting in losses.index.unique()]
        expected = statistics.mean_interval(losses, lowest=-1, highest=1)
        names = ["clean_accuracy_loss", "clean_accuracy_loss_low", "clean_accuracy_loss_high"]
        assert tuple(means.loc["btu", names]) == pytest.approx(expected[:3])
        assert means["cells"].tolist() == [14] * 3 and means["settings"].tolist() == [5] * 3

    def test_seeds_of_one_setting_have_no_interval_over_settings(self):
        row = overall(table(*rates(0.1, 0.2, 0.3))).iloc[0]
        assert row["attack_success_excess"] == pytest.approx(0.2)
        assert np.isnan(row["attack_success_excess_low"])
        assert row[["settings", "cells"]].tolist() == [1, 3]

    def test_lowest_average_rank_comes_first(self, grid):
        means = overall(grid)
        assert means["recipe"].tolist() == ["btu_calibrated", "btu + fine-tune", "btu"]
        assert means["average_rank"].sum() == pytest.approx(6)

    def test_ties_share_their_ranks(self):
        excesses = {"a": [(0,), (0.1,)], "b": [(0,), (0.2,)], "c": [(1,), (0,)]}
        rows = [row for recipe, own in excesses.items() for row in over_attacks(recipe, *own)]
        assert average_ranks(table(*rows)).to_dict() == {"a": 1.75, "b": 2.25, "c": 2.0}

    def test_ranks_are_of_the_means_of_seeds(self):
        # b is lower in four of the six cells, but only in one of the two settings
        rows = [
            *over_attacks("a", (0.1, 0.4, 0.4), (0.2, 0.2, 0.2)),
            *over_attacks("b", (0.9, 0.3, 0.3), (0.1, 0.1, 0.3)),
        ]
        assert average_ranks(table(*rows)).to_dict() == {"a": 1.5, "b": 1.5}

    def test_recipe_without_a_valid_cell_takes_no_part(self):
        rows = table(*rates(0.1, 0.2, recipe="a"), failed(recipe="b"), failed(recipe="b", seed=1))
        means = overall(rows).set_index("recipe")
        assert means["cells"].to_dict() == {"a": 2, "b": 0}
        assert means["settings"].to_dict() == {"a": 1, "b": 0}
        assert np.isnan(means.loc["b", "average_rank"]) and means.index[-1] == "b"

    def test_nothing_valid_at_all(self):
        means = overall(table(cell(**NOT_IMPLANTED), failed(recipe="b")))
        assert means[["settings", "cells"]].eq(0).all(axis=None)
        assert means["average_rank"].isna().all()


class TestScores:
    def test_have_a_row_a_setting_and_a_column_a_recipe(self, grid):
        assert scores(grid, "clean_accuracy").shape == (5, 3)
        assert scores(grid, "clean_accuracy").columns[0] == "btu_calibrated"

    def test_are_means_over_the_seeds_that_all_recipes_have(self):
        a = over_attacks("a", (0.1, 0.3), (0.2, 0.4, 0.9))
        b = over_attacks("b", (0.5, 0.6), (0.0, 0.2))
        found = scores(table(*a, *b, cell(recipe="b", attack="only b")), "attack_success_excess")
        np.testing.assert_allclose(found["a"], [0.2, 0.3])
        np.testing.assert_allclose(found["b"], [0.55, 0.1])

    def test_of_nothing_in_common_are_none(self):
        assert scores(table(failed()), "attack_success_excess").shape == (0, 0)

    @between_recipes
    def test_keep_the_level_of_tests_where_some_settings_suit_a_recipe(self, test, n_recipes):
        over_settings = scores(self.alike(n_recipes, grids=1_000), "attack_success_excess")
        assert 0.02 <= self.rejections(test, over_settings) <= 0.06

    @between_recipes
    def test_would_not_keep_it_if_cells_were_taken_for_independent(self, test, n_recipes):
        cells = self.alike(n_recipes, grids=200)
        over_cells = cells.pivot(index=CELL, columns="recipe", values="attack_success_excess")
        assert self.rejections(test, over_cells) > 0.12

    @staticmethod
    def rejections(test, rates: pd.DataFrame) -> float:
        """In which share of the grids, each under the name of a data set, level 5 % rejects."""
        grids = [own.to_numpy() for _, own in rates.groupby(level="dataset")]
        of_all = test is statistics.friedman
        return np.mean([(test(own) if of_all else test(*own.T)) <= 0.05 for own in grids])

    @staticmethod
    def alike(n_recipes: int, grids: int) -> pd.DataFrame:
        """Grids of 10 settings with 3 seeds; a recipe suits some settings, but is no better."""
        rng = np.random.default_rng(n_recipes)
        spread = 0.05  # of settings around recipes, and of seeds around settings
        rows = [
            {"dataset": str(grid), "attack": str(attack), "recipe": str(recipe), "seed": seed}
            | {"attack_success_excess": excess, "attack_success_rate": excess}
            for grid, attack, recipe in product(range(grids), range(10), range(n_recipes))
            for seed, excess in enumerate(rng.normal(rng.normal(0.5, spread), spread, 3))
        ]
        return pd.DataFrame(rows).assign(
            poison_rate=0.1, label_mode="mix", model="minilm", status="done", valid=True,
            attack_success_floor=0.0, clean_accuracy=0.9, victim_clean_accuracy=0.9,
            victim_attack_success_rate=1.0,
        )  # fmt: skip


def test_settings_that_differ_are_shown():
    rows = table(cell(), cell(poison_rate=0.005))
    assert varying(rows) == ["dataset", "attack", "poison_rate"]
    assert settings(rows)["poison_rate"].tolist() == ["10 %", "0.5 %"]
