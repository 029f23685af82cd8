"""A leaderboard for people: Markdown, LaTeX, one HTML page; and all of its files."""

from __future__ import annotations

import html
import re
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.experiments import statistics
from backdoor_pipeline.experiments.comparison import comparisons
from backdoor_pipeline.experiments.leaderboard import (
    CELLS,
    HEALED,
    RANKED_BY,
    ROBUST,
    SETTING,
    TARGET_RECALL,
    leaderboard,
    overall,
    settings,
    varying,
)
from backdoor_pipeline.experiments.leaderboard_figures import (
    before_after_figure,
    critical_difference_figure,
    frontier_figure,
)
from backdoor_pipeline.formatting import MISSING, counted, is_known, number, rate
from backdoor_pipeline.presentation import embedded, plotly_script, template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from plotly.graph_objects import Figure

TEMPLATE = "leaderboard.html.jinja"
HEADINGS = dict(zip(SETTING, ("data", "attack", "poison rate", "label mode", "model"), strict=True))
LOWER_IS_BETTER = {  # 1, or -1 where higher is
    "clean_accuracy": -1,
    "attack_success_rate": 1,
    "attack_success_excess": 1,
    "defence_effectiveness": -1,
}
SIGNIFICANT = 0.05
NOTE = 80  # letters
IN_LATEX = str.maketrans(
    {
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after a line's end, a bracket or a star would be its argument
        "*": "{*}",
    }
)


class Board(NamedTuple):
    """The cells and the tables made of them."""

    cells: pd.DataFrame
    leaderboard: pd.DataFrame
    overall: pd.DataFrame
    comparisons: pd.DataFrame


def summarise(
    cells: pd.DataFrame, load_predictions: Callable[[str], pd.DataFrame] = pd.read_parquet
) -> Board:
    """All tables of a grid.

    Args:
        cells: A ``CELLS`` table, which is checked.
        load_predictions: Reads the predictions of a cell from their path.

    Raises:
        InputError: There is no cell.
    """
    if cells.empty:
        raise InputError("there is no cell to make a leaderboard of; run the grid first")
    cells = CELLS.validate(cells)
    return Board(cells, leaderboard(cells), overall(cells), comparisons(cells, load_predictions))


def write(
    folder: Path,
    cells: pd.DataFrame,
    load_predictions: Callable[[str], pd.DataFrame] = pd.read_parquet,
) -> list[Path]:
    """Writes everything that a leaderboard has into ``folder``, each file whole; their paths.

    The same cells give the same bytes: tables as csv in full precision, the leaderboard as
    Markdown, LaTeX and HTML too, the figures as plotly's JSON.

    Args:
        folder: Is made where there is none; other files in it stay.
        cells: A ``CELLS`` table.
        load_predictions: Reads the predictions of a cell from their path.
    """
    from backdoor_pipeline.datasets.whole import write_whole

    board = summarise(cells, load_predictions)
    figures = {
        "before_after": before_after_figure(board.leaderboard),
        "frontier": frontier_figure(board.cells),
        "critical_difference": critical_difference_figure(board.cells),
    }
    texts = {
        **{
            f"{name}.csv": table.to_csv(index=False, lineterminator="\n")
            for name, table in board._asdict().items()
        },
        "leaderboard.md": as_markdown(board.leaderboard),
        "leaderboard.tex": as_latex(board.leaderboard),
        "leaderboard.html": as_page(board, figures),
        **{f"{name}.json": figure.to_json() for name, figure in figures.items()},
    }
    for name, text in texts.items():
        write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return [folder / name for name in texts]


def as_markdown(table: pd.DataFrame) -> str:
    """The leaderboard as a Markdown table under a sentence that says what all rows share."""
    lines = _lines(table, _in_markdown, "**{}**".format)
    rows = [list(lines[0]), ["---"] * len(lines[0]), *(line.values() for line in lines)]
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{_in_markdown(_shared(table))}\n\n{body}\n"


def as_latex(table: pd.DataFrame) -> str:
    """The leaderboard as a LaTeX table in the style of booktabs."""
    lines = _lines(table, _in_latex, r"\textbf{{{}}}".format)
    names = list(lines[0]).index("recipe") + 1
    spaces = ["\\addlinespace\n" if line["data"] else "" for line in lines]
    body = "".join(
        f"{space}{' & '.join(line.values())} \\\\\n"
        for space, line in zip(["", *spaces[1:]], lines, strict=True)
    )
    return rf"""% \usepackage{{booktabs}}
\begin{{table}}
\centering
\caption{{{_in_latex(_shared(table))}}}
\footnotesize
\setlength{{\tabcolsep}}{{3pt}}
\begin{{tabular}}{{{"l" * names}{"r" * (len(lines[0]) - names)}}}
\toprule
{" & ".join(lines[0])} \\
\midrule
{body}\bottomrule
\end{{tabular}}
\end{{table}}
""".replace("→", r"$\rightarrow$")


def as_page(board: Board, figures: Mapping[str, Figure]) -> str:
    """The leaderboard as one HTML file without an address outside it.

    Args:
        board: All tables.
        figures: ``before_after``, ``frontier`` and ``critical_difference``.
    """
    cells = board.cells
    headline, *sentences = _headline(board)
    counts = {"dataset": "data set", "attack": "attack", "recipe": "recipe", "seed": "seed"}
    failed = cells[cells["status"] == "failed"]
    return template(__package__, TEMPLATE).render(
        title=", ".join(counted(cells[name].nunique(), noun) for name, noun in counts.items()),
        headline=headline,
        sentences=sentences,
        shared=_shared(board.leaderboard),
        headings=[HEADINGS[name] for name in varying(board.leaderboard)],
        rows=_rows(board.leaderboard),
        healed=_heals(board.leaderboard),
        of_target=_knows_target(board.leaderboard),
        recipes=board.overall.to_dict("records"),
        comparisons={
            metric: [row | {"verdict": _verdict(row)} for row in own.to_dict("records")]
            for metric, own in board.comparisons.groupby("metric", sort=False)
        },
        failures=[
            {"names": [*names, f"seed {seed}", recipe], "error": error}
            for names, seed, recipe, error in zip(
                settings(failed)[varying(cells)].to_numpy().tolist(),
                failed["seed"],
                failed["recipe"],
                failed["error"],
                strict=True,
            )
        ],
        resampled_from=statistics.RESAMPLED_FROM,
        share=_share,
        plotly_js=plotly_script(),
        figures={name: embedded(name, figure) for name, figure in figures.items()},
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the leaderboard with ``names`` (not repeated), ``seeds_said`` and ``best``."""
    names = settings(table)
    repeated = names.eq(names.shift()).all(axis=1)
    shown = names[varying(table)].mask(repeated, "")
    seeds = _seeds(table)
    told = seeds.replace("", MISSING) if len(set(seeds) - {""}) > 1 else [""] * len(table)
    return [
        row | {"names": named, "best": best, "seeds_said": said, "note": _note(row)}
        for row, named, best, said in zip(
            table.to_dict("records"),
            shown.to_numpy().tolist(),
            _best(table).to_dict("records"),
            told,
            strict=True,
        )
    ]


def _lines(
    table: pd.DataFrame, escape: Callable[[str], str], strong: Callable[[str], str]
) -> list[dict[str, str]]:
    """The leaderboard's rows as texts by heading, names escaped, the best of a setting strong."""
    headings = [HEADINGS[name] for name in varying(table)]
    healed, of_target = _heals(table), _knows_target(table)
    lines = []
    for row in _rows(table):
        shown = {
            name: strong(_share(row[name])) if row["best"][name] else _share(row[name])
            for name in LOWER_IS_BETTER
        }
        accuracy, success = (
            f"{_share(row[f'victim_{name}'])} → {shown[name]}"
            for name in ("clean_accuracy", "attack_success_rate")
        )
        excess, low = shown[RANKED_BY], row[f"{RANKED_BY}_low"]
        if is_known(low):
            excess += f" [{_share(low)}, {_share(row[f'{RANKED_BY}_high'])}]"
        false = f" ({number(row['false_alarms'])})" if is_known(row["false_alarms"]) else ""
        lines.append(
            {
                **dict(zip(headings, map(escape, row["names"]), strict=True)),
                "recipe": escape(row["recipe"]),
                **({"seeds": row["seeds_said"]} if row["seeds_said"] else {}),
                "flagged (false)": f"{number(row['flagged'])}{false}",
                "CA before → after": accuracy,
                "ASR before → after": success,
                **({"target recall": _before_after(row, "target_recall")} if of_target else {}),
                **({"RA": _share(row[ROBUST]), HEALED: _share(row[HEALED])} if healed else {}),
                "floor": _share(row["attack_success_floor"]),
                "excess [interval]": escape(row["note"]) or excess,
                "DER": shown["defence_effectiveness"],
                "seconds": number(row["wall_seconds"]),
                "clean rows": number(row["clean_rows"]),
            }
        )
    return lines


def _heals(table: pd.DataFrame) -> bool:
    """Whether anything is known of how much healed."""
    return HEALED in table and bool(table[HEALED].notna().any())


def _knows_target(table: pd.DataFrame) -> bool:
    """Whether the recall of the target's own class is known, as of pairs."""
    return bool(table.reindex(columns=TARGET_RECALL).notna().any(axis=None))


def _before_after(row: Mapping[Any, Any], name: str) -> str:
    return f"{_share(row[f'victim_{name}'])} → {_share(row[name])}"


def _best(table: pd.DataFrame) -> pd.DataFrame:
    """Whether a rate is, as printed, the best of its setting, shape (n_rows, n_rates).

    Where all are the same, none is.
    """
    printed = table[list(LOWER_IS_BETTER)].mul(100).round(1) * pd.Series(LOWER_IS_BETTER)
    rivals = printed.groupby([table[name] for name in SETTING])
    return printed.eq(rivals.transform("min")) & (rivals.transform("nunique") > 1)


def _note(row: Mapping[Any, Any]) -> str:
    """Why a row has no means, shortened; nothing if it has."""
    failed = row["failed"] and not row["seeds"] and not row["invalid"]
    return shorten(f"failed: {row['note']}" if failed else row["note"], NOTE, placeholder="…")


def _seeds(table: pd.DataFrame) -> pd.Series:
    """How many seeds are in the means of each row, and what became of others; "" for none."""
    said = table["seeds"].astype(str)
    for name in ("invalid", "failed", "missing"):
        said += [f", {n} {name}" if n else "" for n in table[name]]
    return said.mask(table["seeds"] == 0, "")


def _shared(table: pd.DataFrame) -> str:
    """What all rows of the leaderboard share, and how to read it."""
    said = settings(table).iloc[0]
    parts = [f"{HEADINGS[name]} {said[name]}" for name in SETTING if name not in varying(table)]
    seeds, over = set(_seeds(table)) - {""}, "seeds"
    if len(seeds) == 1:
        n, *others = seeds.pop().split(", ")
        over = counted(int(n), "seed") + (f" ({', '.join(others)})" if others else "")
    parts.append(f"means over {over}, rates in per cent")
    parts.append("95 % intervals over seeds, best in bold.")
    sentence = ", ".join(parts)
    return sentence[0].upper() + sentence[1:]


def _headline(board: Board) -> list[str]:
    """What the page says first: who ranks first, by how much, and which runs do not count."""
    best = board.overall.iloc[0].to_dict()
    if not best["cells"]:
        said = ["There is no cell in which the recipes can be compared."]
    else:
        first = board.overall.loc[board.overall["average_rank"] == best["average_rank"], "recipe"]
        verdict = f"{' and '.join(first)} {'ranks' if len(first) == 1 else 'rank'} first by excess"
        said = [
            verdict if len(board.overall) > 1 else f"One recipe: {best['recipe']}",
            f"{best['recipe']} over {counted(best['settings'], 'setting')} "
            f"({counted(best['cells'], 'cell')}) that all recipes have: "
            f"excess {rate(best, RANKED_BY)}, attack success {rate(best, 'attack_success_rate')}, "
            f"average rank {best['average_rank']:.2f}.",
        ]
    reasons = {"invalid": "attack not implanted", "failed": "failed", "missing": "not run"}
    lacking = {why: int(board.overall[name].sum()) for name, why in reasons.items()}
    lost = ", ".join(f"{n} {why}" for why, n in lacking.items() if n)
    runs = counted(len(board.cells), "run")
    return [*said, f"Of {runs}, these do not count: {lost}." if lost else f"All {runs} count."]


def _verdict(row: Mapping[Any, Any]) -> str:
    """A comparison in words; over settings, the permutation test decides."""
    examples = row["p_mcnemar_holm"] < SIGNIFICANT
    over_settings = row["p_permutation_holm"] < SIGNIFICANT
    return {
        (True, True): "a clear difference, over examples and over settings",
        (True, False): "clear over examples, but not over settings",
        (False, True): "clear over settings, but not over examples",
        (False, False): "may be chance",
    }[bool(examples), bool(over_settings)]


def _share(value: float) -> str:
    """0.8312 as "83.1", with a true minus sign."""
    if is_known(value):
        return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\u2212")
    return MISSING


def _in_markdown(text: str) -> str:
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*|\[\]~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", escaped)


def _in_latex(text: str) -> str:
    return " ".join(text.split()).translate(IN_LATEX)
