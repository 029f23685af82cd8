from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.io
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.experiments import exports
from backdoor_pipeline.experiments.exports import as_latex, as_markdown, summarise, write
from backdoor_pipeline.experiments.leaderboard import ROW, leaderboard
from made_up_grid import cell, failed, predictions, table

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["<b>", "a_b", "50 %", "|", "[x]", "*", "_y_", "`z`", "\\", "{~^#&$}", "q\"'", "two\nlines"]
FILES = {
    "cells.csv", "leaderboard.csv", "overall.csv", "comparisons.csv", "leaderboard.md",
    "leaderboard.tex", "leaderboard.html", "before_after.json", "frontier.json",
    "critical_difference.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def board(grid) -> exports.Board:
    return summarise(grid)


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory) -> list[Path]:
    return write(tmp_path_factory.mktemp("written") / "new" / "folder", grid)


@pytest.fixture(scope="module")
def page(written) -> str:
    return (written[0].parent / "leaderboard.html").read_text(encoding="utf-8")


class Visible(HTMLParser):
    """The text of a page, without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: set[str] = set()
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in {"script", "style"}:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.parts))


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of each row of a Markdown table, without its head."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


class TestMarkdown:
    def test_row_of_one_seed(self):
        sentence, _, head, _, row = as_markdown(leaderboard(table(cell()))).splitlines()
        assert sentence == (
            "Poison rate 10 %, label mode mix, model minilm, means over 1 seed, "
            "rates in per cent, 95 % intervals over seeds, best in bold."
        )
        assert head == (
            "| data | attack | recipe | flagged (false) | CA before → after | ASR before → after "
            "| floor | excess [interval] | DER | seconds | clean rows |"
        )
        assert row == (
            "| sst2 | badnets | btu | 30 (29) | 90.0 → 88.0 | 100.0 → 20.0 "
            "| 10.0 | 11.1 | 89.0 | 100 | 0 |"
        )

    def test_interval(self):
        rows = [cell(seed=s, attack_success_excess=e) for s, e in enumerate((0.1, 0.11, 0.12))]
        assert rows_of(as_markdown(leaderboard(table(*rows))))[0][7] == "11.0 [8.5, 13.5]"

    def test_best_of_a_setting_is_bold(self):
        rows = table(cell(), cell(recipe="better", clean_accuracy=0.9), cell(attack="addsent"))
        first, second, alone = rows_of(as_markdown(leaderboard(rows)))
        assert "90.0 → **90.0**" in second and "**90.0**" in second
        assert not any("**" in text for text in [*first, *alone])

    def test_best_is_judged_as_printed(self):
        rows = table(cell(), cell(recipe="same", clean_accuracy=0.8801))
        assert "**" not in as_markdown(leaderboard(rows)).split("\n\n")[1]

    def test_repeated_settings_are_not_repeated(self, board):
        rows = rows_of(as_markdown(board.leaderboard))
        assert [row[0] for row in rows[:4]] == ["sst2", "", "", "sst2"]
        assert [row[1] for row in rows[:4]] == ["BadNets (cf)", "", "", "AddSent"]

    def test_seeds_have_a_column_where_they_differ(self, board):
        rows = rows_of(as_markdown(board.leaderboard))
        assert rows[5][2:4] == ["btu + fine-tune", "2, 1 failed"] and rows[0][3] == "3"

    def test_seeds_that_all_rows_share_are_in_the_sentence(self):
        rows = table(cell(), failed(seed=1), cell(seed=2))
        assert "means over 2 seeds (1 failed), rates" in as_markdown(leaderboard(rows))

    def test_settings_have_a_column_where_they_differ(self):
        markdown = as_markdown(leaderboard(table(cell(), cell(poison_rate=0.05))))
        assert "| data | attack | poison rate | recipe |" in markdown
        assert "poison rate" not in markdown.splitlines()[0].lower()

    def test_attack_that_was_not_implanted(self, board):
        row = rows_of(as_markdown(board.leaderboard))[-1]
        assert row[6:10] == ["14.8 → –", "13.8", "attack not implanted", "–"]
        assert "–" not in "".join((*row[4:6], *row[10:]))

    def test_failed_and_missing(self):
        missing = failed(recipe="later", status="missing", error=None)
        first, second = rows_of(as_markdown(leaderboard(table(failed(), missing))))
        assert first[7] == "failed: OSError: disk &lt;full&gt;" and second[7] == "not run"

    def test_long_errors_are_cut(self):
        text = as_markdown(leaderboard(table(failed(error="no " * 100))))
        assert "no…" in text and len(text) < 800

    @pytest.mark.parametrize("name", NAMES)
    def test_names_are_escaped(self, name):
        columns = ("dataset", "attack", "recipe", "model")
        text = as_markdown(leaderboard(table(cell(**dict.fromkeys(columns, name)))))
        row = rows_of(text)[0]
        assert len(row) == 11 and "<" not in text
        assert row[0] == row[1] == row[2] and row[0] in text.splitlines()[0]

    @pytest.mark.parametrize(
        ("name", "escaped"),
        [("<b>", "&lt;b&gt;"), ("a_b", "a_b"), ("_y_", r"\_y\_"), ("|", r"\|"), ("50 %", "50 %")],
    )
    def test_escaped_as(self, name, escaped):
        assert rows_of(as_markdown(leaderboard(table(cell(recipe=name)))))[0][2] == escaped


class TestLatex:
    def test_row(self):
        rows = table(cell(recipe="a_b"), cell(recipe="50 %", clean_accuracy=0.9))
        text = as_latex(leaderboard(rows))
        assert r"a\_b & 30 (29) & 90.0 $\rightarrow$ 88.0 & 100.0 $\rightarrow$ 20.0" in text
        assert r" &  & 50 \% & 30 (29) & 90.0 $\rightarrow$ \textbf{90.0}" in text
        assert r"\caption{Poison rate 10 \%, label mode mix" in text

    @pytest.mark.parametrize("name", NAMES)
    def test_no_special_sign_is_left(self, name):
        columns = ("dataset", "attack", "recipe", "model")
        text = as_latex(leaderboard(table(cell(**dict.fromkeys(columns, name)))))
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
        assert body.endswith(r"\\") and "\n" not in body
        plain = re.sub(r"\\[&%$#_{}]|\\[a-z]+\{\}|\\textbf|\$\\rightarrow\$", "", body[:-2])
        assert len(plain.split("&")) == 11
        assert not re.search(r"[\\%$#_^~<>|]", plain)
        assert plain.count("{") == plain.count("}")
        assert not body.startswith(("[", "*"))

    def test_columns_match_and_settings_stand_apart(self, board):
        text = as_latex(board.leaderboard)
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {row.count("&") for row in rows} == {len(columns) - 1}
        assert text.count(r"\addlinespace") == 5 and "→" not in text


class TestPage:
    def test_says_who_is_first_and_what_does_not_count(self, page):
        text = Visible(page).text
        assert "btu_calibrated ranks first by excess" in text
        assert "btu_calibrated over 5 settings (14 cells) that all recipes have: excess" in text
        assert "Of 54 runs, these do not count: 9 attack not implanted, 1 failed." in text
        assert "2 data sets, 3 attacks, 3 recipes, 3 seeds" in text

    def test_compares_in_words(self, page):
        text = Visible(page).text
        assert "btu_calibrated has the lowest mean" in text
        assert "over 5 settings (14 cells)." in text
        assert "clear over examples, but not over settings" in text  # 5 signs cannot be clear

    def test_lists_failed_runs_with_their_errors(self, page):
        text = Visible(page).text
        assert "sst2 / AddSent / seed 2 / btu + fine-tune" in text
        assert "OSError: disk <full> Traceback" in text

    def test_says_how_it_was_made(self, page):
        text = Visible(page).text
        assert "95 % bootstrap intervals" in text and "Holm-adjusted" in text
        assert "all tests but McNemar's, are over settings with their seeds averaged" in text
        assert "about 7 % of grids with 4 equal recipes, and in 9 % with 6" in text
        assert "Fewer than 8 values are too few" in text and "in 93 to 95 % of cases" in text
        assert "Means over 5 settings (data set, attack, poison rate" in text

    def test_needs_nothing_from_outside(self, page):
        own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        assert not re.search(r"(src|href)=|url\(|@import", own)
        assert page.count("plotly.js v") == 1

    def test_names_are_escaped(self, grid, tmp_path):
        hostile = "<blink>{{ 7 * 7 }}"
        columns = ("dataset", "attack", "recipe", "model", "error")
        cells = grid.assign(**{name: grid[name] + hostile for name in columns})
        write(tmp_path, cells)
        page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
        assert "blink" not in Visible(page).tags
        assert "btu<blink>{{ 7 * 7 }}" in Visible(page).text

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            ([cell()], "One recipe: btu btu over 1 setting (1 cell) that"),
            ([failed()], "no cell in which the recipes can be compared"),
            ([cell(valid=False)], "these do not count: 1 attack not implanted"),
            ([cell(), cell(recipe="b", seed=1)], "There are no two recipes with a common cell"),
        ],
    )
    def test_small_grids(self, tmp_path, rows, told):
        write(tmp_path, table(*rows))
        page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
        assert told in Visible(page).text and "nan" not in Visible(page).text

    def test_recipes_that_are_equally_good_are_both_named(self, tmp_path):
        rows = table(cell(recipe="a"), cell(recipe="b"))
        write(tmp_path, rows, lambda path: predictions(0.9, 0.2, 0))
        page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
        assert "a and b rank first by excess" in Visible(page).text
        assert "may be chance" in Visible(page).text and "All 2 runs count." in Visible(page).text


@pytest.mark.parametrize(
    ("examples", "over_settings", "words"),
    [
        (0.01, 0.01, "a clear difference, over examples and over settings"),
        (0.01, 0.2, "clear over examples, but not over settings"),
        (0.2, 0.01, "clear over settings, but not over examples"),
        (0.2, 0.2, "may be chance"),
    ],
)
def test_verdicts(examples, over_settings, words):
    row = {"p_mcnemar_holm": examples, "p_permutation_holm": over_settings}
    assert exports._verdict(row) == words


def test_shares():
    shares = [exports._share(value) for value in (0.8312, -0.0001, -0.004, float("nan"))]
    assert shares == ["83.1", "0.0", "\u22120.4", "–"]


class TestWrite:
    def test_all_files(self, written):
        assert {path.name for path in written} == FILES
        assert {path.name for path in written[0].parent.iterdir()} == FILES
        for path in written:
            if path.suffix == ".json":
                assert plotly.io.from_json(path.read_text(encoding="utf-8")).data

    def test_csv_has_full_precision(self, written, board):
        read = pd.read_csv(written[0].parent / "leaderboard.csv")
        for name in ("clean_accuracy", "attack_success_excess_high", "wall_seconds"):
            pd.testing.assert_series_equal(read[name], board.leaderboard[name], check_exact=True)

    def test_same_cells_same_bytes(self, grid, written, tmp_path):
        for first, again in zip(written, write(tmp_path, grid.copy()), strict=True):
            assert first.read_bytes() == again.read_bytes(), first.name

    def test_files_are_replaced(self, tmp_path):
        write(tmp_path, table(cell(recipe="old")))
        write(tmp_path, table(cell(recipe="new")))
        text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
        assert "| new |" in text and "| old |" not in text

    def test_no_cells_is_an_error_that_says_what_to_do(self, grid, tmp_path):
        with pytest.raises(InputError, match="run the grid first"):
            write(tmp_path, grid.head(0))
        assert not list(tmp_path.iterdir())


class TestHealed:
    def test_is_shown_where_it_is_known(self, grid, tmp_path) -> None:
        known = grid.assign(healed=grid["robust_accuracy"] - 0.5)
        board = summarise(known)
        means = known[known["status"].eq("done") & known["valid"].isin([True])]
        first = board.leaderboard.iloc[0]
        own = means[(means[ROW] == first[ROW]).all(axis=1)]
        assert first["healed"] == pytest.approx(own["healed"].mean())
        assert first["robust_accuracy"] == pytest.approx(own["robust_accuracy"].mean())
        assert "| RA | healed |" in as_markdown(board.leaderboard)
        folder = {path.name: path for path in write(tmp_path, known)}
        assert ">healed<" in folder["leaderboard.html"].read_text(encoding="utf-8")

    def test_is_left_out_where_it_is_not(self, board, grid) -> None:
        unknown = summarise(grid.assign(healed=np.nan))
        for made in (board.leaderboard, unknown.leaderboard):
            assert "healed" not in as_markdown(made)
            assert "| RA |" not in as_markdown(made)


class TestTargetRecall:
    def test_is_shown_where_it_is_known(self, grid, tmp_path) -> None:
        known = grid.assign(victim_target_recall=0.8125, target_recall=0.75)
        board = summarise(known)
        text = as_markdown(board.leaderboard)
        assert "| target recall |" in text
        assert "| 81.2 → 75.0 |" in text
        page = {path.name: path for path in write(tmp_path, known)}["leaderboard.html"]
        assert ">81.2 → 75.0<" in page.read_text(encoding="utf-8")

    def test_is_left_out_where_it_is_not(self, board, grid) -> None:
        nothing = dict.fromkeys(("victim_target_recall", "target_recall"), np.nan)
        for made in (board.leaderboard, summarise(grid.assign(**nothing)).leaderboard):
            assert "target recall" not in as_markdown(made)
