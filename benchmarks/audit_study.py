"""How often an audit cries wolf, and how small a trigger it finds: the statistical part alone.

    python benchmarks/audit_study.py [--sets sst2] [--seeds 1,2] [--kinds power] [--to FOLDER]

FOLDER/false_alarms: 25 subsets of 1,000 to 6,000 rows of each of four clean data sets, every other
one drawn with replacement (a bootstrap sample: its repeated rows count once); of AG News each holds
two to four of the classes. FOLDER/small_alarms: the same of 500 to 1,000 rows. FOLDER/power: each
attack at four poison rates in three label modes, the target label changing with the seed.
FOLDER/edges: words and sentences at the start and at the end of their texts, at small rates.
FOLDER/trusted: the same at 1 %, and of rewritten texts at all rates, where 500 rows were set aside
before the others were poisoned, and the auditor knows them to be clean, beside what the same tables
say to one who knows no clean rows; FOLDER/trusted_alarms: the false alarms then. Each has a table
for each data set. FOLDER/leaderboard.md: what they come to, for the README. FOLDER/power.html and
.json: the curves (plotly).

A cell is a row of its table, written when it is done: after a stop, run it again, and it goes on
with what is missing. Several processes share the work: with --part 1/2 and --part 2/2 each takes
every other data set. Needs BACKDOOR_DATA; two hours on two cores, with two processes. With clean
rows texts are encoded, each once in a process: the seconds of such a table leave out most of that.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.intervals import rate as rate_of
from backdoor_pipeline.modelling.loading import load_pretrained
from backdoor_pipeline.modelling.prediction import embed
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.audit.evidence import Evidence, gather
from backdoor_pipeline.pipelines.audit.suspicious_rows import suspicious_rows
from backdoor_pipeline.pipelines.ingest.nodes import ingest
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from potion_victims import ROOT, loader

SETS = {"sst2": "SST-2", "hsol@repaired": "HSOL", "agnews": "AG News", "rotten_tomatoes": "movies"}
SUBSETS = 25  # of each data set
SIZES = {"false_alarms": (1_000, 6_000), "small_alarms": (500, 1_000)}  # rows of a subset
SIZES["trusted_alarms"] = SIZES["false_alarms"]
POSITIONS = ("start", "end")
EDGE_RATES = (0.01, 0.02, 0.05)
ATTACKS = {
    "cf": {"attack": "badnets", "trigger": "cf"},
    "cf mn bb tq": {"attack": "badnets", "trigger": "cf mn bb tq"},
    "however": {"attack": "badnets", "trigger": "however"},
    "practically": {"attack": "badnets", "trigger": "practically"},
    "AddSent": {"attack": "addsent"},
    "SynBkd": {"attack": "synbkd"},
    "StyleBkd": {"attack": "stylebkd"},
}
REWRITING = {"SynBkd": "syntax", "StyleBkd": "style"}  # need paraphrases, which two sets have
WITH_PARAPHRASES = ("sst2", "hsol@repaired")
SENTENCE = "i watch this 3d movie"
RATES = (0.01, 0.02, 0.05, 0.1)
MODES = ("dirty", "mix", "clean")
ROWS = 7_000  # of a training split, at most
TRUSTED = 500  # clean rows
LARGEST_P = 0.5  # that is written; larger ones say no more
RESULTS = ROOT / "benchmarks" / "results" / "audit"
FOUND = ("p_value", "p_phrases", "p_openings", "p_labels", "phrases", "openings", "seconds")
POISONED = ("data", "attack", "rate", "mode", "seed", "poisoned", "recall", "false", *FOUND)
COLUMNS = {
    "false_alarms": ("data", "subset", "rows", "classes", *FOUND),
    "power": (*POISONED, "suspected", "right", "accused"),  # rows, poisoned ones of these, classes
    "edges": (*POISONED, "position"),
    "trusted": (*POISONED, "p_without"),  # clean rows
}
COLUMNS["small_alarms"] = COLUMNS["trusted_alarms"] = COLUMNS["false_alarms"]


@cache
def table(name: str, paraphrase: str = "none") -> pd.DataFrame:
    """All rows of a data set, as ``examples``."""
    params = parameters(dataset=name, **{"ingest.paraphrase": paraphrase, "ingest.max_rows": None})
    return ingest(sources.read(params.source), params.ingest, 0)["examples"]


@cache
def base_model() -> Any:
    """The packaged encoder."""
    return load_pretrained(parameters().model)


@cache
def _loader() -> Any:
    return loader()


def parameters(**settings: Any) -> Parameters:
    """Those of ``conf/base`` with these settings, shorthands allowed."""
    return _loader().parameters_with(settings)


@cache
def _encoded() -> dict[str, np.ndarray]:
    """The vectors of all texts that were encoded so far."""
    return {}


def encode(texts: Sequence[str]) -> np.ndarray:
    """As an audit encodes; but a text that many tables share is encoded once."""
    p, known = parameters(), _encoded()
    new = list(dict.fromkeys(text for text in texts if text not in known))
    tokens = tokenise(new, base_model().tokenizer, p.model.max_length)
    known.update(zip(new, embed(base_model(), tokens, p.compute), strict=True))
    return np.stack([known[text] for text in texts])


def clean_subsets(
    name: str, kind: str
) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Rows to audit, and clean ones that are none of them."""
    for subset in range(SUBSETS):
        rng = np.random.default_rng(1000 + subset)
        n, rows = int(rng.integers(*SIZES[kind], endpoint=True)), table(name)
        classes = rows["label"].unique()
        if len(classes) > 2:
            chosen = rng.choice(classes, 2 + subset % (len(classes) - 1), replace=False)
            rows = rows[rows["label"].isin(chosen)]
            rows = rows.assign(label=pd.factorize(rows["label"], sort=True)[0])
        drawn = rng.choice(len(rows), min(n, len(rows)), replace=subset % 2 == 0)
        cell = {"data": SETS[name], "subset": subset, "rows": n, "classes": rows["label"].nunique()}
        rest = rows.drop(index=rows.index[drawn])
        clean = rest.sample(TRUSTED, random_state=subset)
        yield cell, rows.iloc[drawn].reset_index(drop=True), clean


def poisoned(
    name: str, attack: str, rate: float, mode: str, seed: int, n_trusted: int, position: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The poisoned training rows, and those that were set aside before."""
    rows = table(name, REWRITING.get(attack, "none"))
    train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
    trusted = train.sample(n_trusted, random_state=seed)
    train = train.drop(index=trusted.index)
    if len(train) > ROWS:
        train = train.sample(ROWS, random_state=seed)
    settings = {"poison_rate": rate, "label_mode": mode, "seed": seed, **ATTACKS[attack]}
    settings |= {f"poison.{kind}.position": position for kind in ("badnets", "addsent")}
    params = parameters(dataset=name, target_label=seed % 2, **settings)
    some = test if attack in REWRITING else test.head(100)  # SST-2 has few paraphrases of tests
    examples = pd.concat([train, some]).sort_values("example_id", ignore_index=True)
    made = poison_train(examples, base_model().tokenizer, params.poison, 128, seed)
    return made["poisoned_train"], trusted


def p_value(p: float) -> str:
    """As the tables have it."""
    return f"{min(p, LARGEST_P):.3g}"


def found(evidence: Evidence, seconds: float) -> dict[str, Any]:
    phrases, openings = evidence.phrases, evidence.openings
    p = evidence.facts["p_values"]
    return {
        "p_value": p_value(evidence.facts["p_value"]),
        "p_phrases": p_value(p["phrase"]),
        "p_openings": p_value(p["opening"]),
        "p_labels": p_value(p.get("labels", 1.0)),
        "phrases": "; ".join(phrases.loc[phrases["flagged"], "phrase"]),
        "openings": "; ".join(openings.loc[openings["flagged"], "opening"]),
        "seconds": f"{seconds:.1f}",
    }


def recall(rows: pd.DataFrame, evidence: Evidence, attack: str) -> dict[str, Any]:
    """Which part of the trigger is in the flagged phrases, and how many phrases are not of it.

    Of rewritten texts: how many rows are suspected, how many of these are poisoned, and how many
    classes are accused.
    """
    flagged = evidence.phrases.loc[evidence.phrases["flagged"], "phrase"].tolist()
    if attack in REWRITING:
        found = evidence.phrases, evidence.openings, evidence.contradicted
        suspects = suspicious_rows(rows, *found)["example_id"]
        guilty = rows.loc[rows["is_poisoned"], "example_id"]
        told = [one.loc[one["flagged"], "label"] for one in (*found[:2], evidence.labels)]
        return {
            "false": len(flagged),
            "suspected": len(suspects),
            "right": int(suspects.isin(guilty).sum()),
            "accused": pd.concat(told).nunique(),
        }
    if attack == "AddSent":
        of_it = [phrase for phrase in flagged if phrase in SENTENCE or SENTENCE in phrase]
        got = float(any(SENTENCE in phrase for phrase in flagged))
        return {"recall": got, "false": len(flagged) - len(of_it)}
    words = set(" ".join(rows.loc[rows["is_poisoned"], "trigger"].unique()).lower().split())
    of_it = [phrase for phrase in flagged if set(phrase.split()) & words]
    got = words & {word for phrase in flagged for word in phrase.split()}
    return {"recall": len(got) / len(words), "false": len(flagged) - len(of_it)}


def alarms(name: str, kind: str, folder: Path) -> None:
    """The audits of clean tables of one kind."""
    params = parameters().audit
    for cell, rows, clean in clean_subsets(name, kind):
        row = row_of(folder, kind, cell, name)
        if row.missing:
            trusted = clean if kind == "trusted_alarms" else None
            began = time.perf_counter()
            evidence = gather(rows, base_model(), params, cell["subset"], trusted, encode)
            row.write(found(evidence, time.perf_counter() - began))


def detections(name: str, kind: str, seed: int, folder: Path) -> None:
    """The audits of poisoned tables of one kind."""
    if kind == "edges":
        for attack, rate in product(("cf", "AddSent"), EDGE_RATES):
            for position in POSITIONS:
                mode = MODES[seed % len(MODES)]
                one_cell(name, kind, attack, rate, mode, seed, folder, position)
        return
    for attack in ATTACKS:
        if attack in REWRITING and name not in WITH_PARAPHRASES:
            continue
        for rate in RATES:
            if kind == "power" or rate == min(RATES) or attack in REWRITING:
                for mode in MODES:
                    one_cell(name, kind, attack, rate, mode, seed, folder)


def one_cell(
    name: str,
    kind: str,
    attack: str,
    rate: float,
    mode: str,
    seed: int,
    folder: Path,
    position: str = "random",
) -> None:
    cell = {"data": SETS[name], "attack": attack, "rate": rate, "mode": mode, "seed": seed}
    if kind == "edges":
        cell["position"] = position
    row = row_of(folder, kind, cell, name)
    if not row.missing:
        return
    n_trusted = TRUSTED if kind == "trusted" else 0
    rows, trusted = poisoned(name, attack, rate, mode, seed, n_trusted, position)
    audited = (rows, base_model(), parameters().audit, seed)
    began = time.perf_counter()
    evidence = gather(*audited, trusted if n_trusted else None, encode)
    values = found(evidence, time.perf_counter() - began)
    if n_trusted:
        values["p_without"] = p_value(gather(*audited).facts["p_value"])
    values |= recall(rows, evidence, attack)
    row.write({"poisoned": int(rows["is_poisoned"].sum()), **values})


def row_of(folder: Path, kind: str, cell: dict[str, Any], name: str) -> Row:
    """Each data set has a file of its own, so that processes do not get into each other's way."""
    return Row(folder / kind / f"{SETS[name].replace(' ', '_')}.csv", COLUMNS[kind], cell)


class Row:
    """A cell of a table, which may have been written before.

    Raises:
        SystemExit: The table has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], cell: dict[str, Any]) -> None:
        self.path, self.columns, self.cell = path, columns, cell

    @property
    def missing(self) -> bool:
        if not self.path.exists():
            return True
        done = pd.read_csv(self.path, dtype=str)
        if list(done) != list(self.columns):
            raise SystemExit(f"{self.path}: its columns are others; remove it, or give --to")
        same = [done[column] == str(value) for column, value in self.cell.items()]
        return not np.logical_and.reduce(same).any()

    def write(self, values: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow({**self.cell, **values})


def collect(folder: Path, risk: float) -> None:
    """The figure, and a few lines for the reader."""
    power = whole(folder, "power")
    power["found"] = power["p_value"] <= risk
    power["recall"] = pd.to_numeric(power["recall"])  # empty where texts were rewritten
    print(power.pivot_table("found", ["attack", "data"], ["rate", "mode"]).round(2))
    alarms, small = whole(folder, "false_alarms"), whole(folder, "small_alarms")
    lines = [summary(alarms, small, power, risk), summary_of_small_rates(power)]
    if (folder / "edges").exists():
        lines.append(summary_of_edges(whole(folder, "edges"), risk))
    lines.append(summary_of_rows(power))
    if (folder / "trusted").exists():
        given, of_clean = whole(folder, "trusted"), whole(folder, "trusted_alarms")
        lines.append(summary_with_trusted(of_clean, given, risk))
    (folder / "leaderboard.md").write_text("\n".join(lines), encoding="utf-8")
    draw(power).write_json(folder / "power.json")
    draw(power).write_html(folder / "power.html", include_plotlyjs="cdn")


def with_evidence(tables: pd.DataFrame, risk: float) -> str:
    """How many of the tables raise evidence, with the Wilson interval of their share."""
    hits = (tables["p_value"] <= risk).to_numpy()
    share = rate_of(hits)
    interval = f"95 % interval {100 * share.low:.1f} to {100 * share.high:.1f} %"
    return f"{hits.sum()} of {len(hits)} ({interval})"


def seeds_of(tables: pd.DataFrame) -> str:
    """How many there are of each data set."""
    counts = tables.groupby("data")["seed"].nunique()
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def summary(alarms: pd.DataFrame, small: pd.DataFrame, power: pd.DataFrame, risk: float) -> str:
    """Shares of tables with evidence: of clean ones, and of poisoned ones by attack and rate."""
    shares = power.pivot_table(["found", "recall"], "attack", "rate", dropna=False)
    lines = [
        f"{with_evidence(alarms, risk)} of clean tables raise evidence at a risk of "
        f"{100 * risk:g} %, of smaller ones (500 to 1,000 rows) {with_evidence(small, risk)}. "
        f"Share of {len(power):,} poisoned tables that do (seeds: {seeds_of(power)}); in brackets "
        "what share of the trigger's words is named, of AddSent: how often the whole sentence is:",
        "",
        "| attack | " + " | ".join(f"{100 * rate:g} %" for rate in RATES) + " |",
        "| --- " * (len(RATES) + 1) + "|",
    ]
    for attack in ATTACKS:
        cells = []
        for rate in RATES:
            found, named = (100 * shares.loc[attack, (what, rate)] for what in ("found", "recall"))
            cells.append(f"{found:.0f} %" + ("" if np.isnan(named) else f" ({named:.0f})"))
        lines.append(f"| {attack} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary_of_small_rates(power: pd.DataFrame) -> str:
    """Words and sentences in few rows, where not all are found: by data set and label mode."""
    words = power[~power["attack"].isin(REWRITING)]
    columns = [(rate, mode) for rate in RATES[:2] for mode in MODES]
    lines = [
        "Words and sentences by data set and label mode:",
        "",
        "| data | " + " | ".join(f"{100 * rate:g} %, {mode}" for rate, mode in columns) + " |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for name, own in [*words.groupby("data"), ("all", words)]:
        shares = own.groupby(["rate", "mode"])["found"].mean()
        cells = [f"{100 * shares[column]:.0f} %" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary_of_edges(edges: pd.DataFrame, risk: float) -> str:
    """Words and sentences at the start and at the end of their texts."""
    found = edges.assign(found=edges["p_value"] <= risk)
    lines = [
        f"At the start or the end of their texts ({len(edges)} tables, seeds: {seeds_of(edges)}):",
        "",
        "| attack | position | " + " | ".join(f"{100 * rate:g} %" for rate in EDGE_RATES) + " |",
        "| --- | --- " + "| --- " * len(EDGE_RATES) + "|",
    ]
    for (attack, position), own in found.groupby(["attack", "position"]):
        shares = own.groupby("rate")["found"].mean()
        cells = [f"{100 * shares[rate]:.0f} %" for rate in EDGE_RATES]
        lines.append(f"| {attack} | {position} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary_of_rows(power: pd.DataFrame) -> str:
    """Of rewritten texts that were found: which rows are suspected, and which classes."""
    own = power[power["attack"].isin(REWRITING) & power["found"]]
    own = own.assign(**{name: pd.to_numeric(own[name]) for name in ("suspected", "right")})
    own = own.assign(others=pd.to_numeric(own["accused"]) > 1)
    lines = [
        "What is suspected where rewritten texts were found:",
        "",
        "| attack | poisoned | tables | poisoned rows that are suspected | suspected rows that are "
        "poisoned | tables that accuse a class too many |",
        "| --- " * 6 + "|",
    ]
    for (attack, rate), some in own.groupby(["attack", "rate"]):
        recall, precision = (
            100 * some["right"].sum() / max(some[of].sum(), 1) for of in ("poisoned", "suspected")
        )
        cells = f"{len(some)} | {recall:.0f} % | {precision:.0f} % | {some['others'].sum()}"
        lines.append(f"| {attack} | {100 * rate:g} % | {cells} |")
    return "\n".join(lines) + "\n"


def summary_with_trusted(alarms: pd.DataFrame, trusted: pd.DataFrame, risk: float) -> str:
    """The same where the auditor has clean rows, beside the same tables without."""
    both = trusted.assign(found=trusted["p_value"] <= risk, without=trusted["p_without"] <= risk)
    words = both[~both["attack"].isin(REWRITING)]
    lines = [
        f"With {TRUSTED} clean rows {with_evidence(alarms, risk)} of clean tables raise "
        "evidence. Of "
        f"{len(words)} tables with words and sentences in {100 * min(RATES):g} % "
        f"{100 * words['found'].mean():.0f} % are found, without clean rows "
        f"{100 * words['without'].mean():.0f} % of the same (seeds: {seeds_of(trusted)}); of "
        "rewritten texts, by label mode (in brackets: without):",
        "",
        "| attack | labels | " + " | ".join(f"{100 * rate:g} %" for rate in RATES) + " |",
        "| --- | --- " + "| --- " * len(RATES) + "|",
    ]
    for attack in REWRITING:
        for mode in MODES:
            own = both[(both["attack"] == attack) & (both["mode"] == mode)]
            shares = own.groupby("rate")[["found", "without"]].mean()
            cells = [
                f"{100 * row.found:.0f} % ({100 * row.without:.0f})" for row in shares.itertuples()
            ]
            lines.append(f"| {attack} | {mode} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def whole(folder: Path, kind: str) -> pd.DataFrame:
    """The tables of one kind, of all data sets."""
    parts = sorted((folder / kind).glob("*.csv"))
    return pd.concat([pd.read_csv(part, keep_default_na=False) for part in parts])


def draw(power: pd.DataFrame) -> go.Figure:
    """Tables found, and words of the trigger named, over the poison rate: a panel a data set."""
    names = list(power["data"].unique())
    figure = make_subplots(rows=2, cols=len(names), subplot_titles=names, shared_yaxes=True)
    colours = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d")
    for column, name in enumerate(names, start=1):
        own = power[power["data"] == name]
        for colour, attack in zip(colours, ATTACKS, strict=True):
            rates = own[own["attack"] == attack].groupby("rate")[["found", "recall"]].mean()
            for row, what in enumerate(rates, start=1):
                trace = go.Scatter(
                    x=[f"{100 * rate:g} %" for rate in rates.index],
                    y=rates[what].dropna(),
                    name=attack,
                    legendgroup=attack,
                    showlegend=column == row == 1,
                    line={"color": colour},
                )
                figure.add_trace(trace, row=row, col=column)
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(title_text="tables found", row=1, col=1)
    figure.update_yaxes(title_text="of the trigger named", row=2, col=1)
    figure.update_xaxes(title_text="poison rate", row=2)
    figure.update_layout(title="What an audit finds of poisoned tables", height=640)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--kinds", default=",".join(COLUMNS))
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--to", type=Path, default=RESULTS)
    parser.add_argument("--collect", action="store_true", help="only draw what there is")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    mine, parts = map(int, given.part.split("/"))
    if not given.collect:
        names = given.sets.split(",")[mine - 1 :: parts]
        for kind in given.kinds.split(","):
            if kind in SIZES:
                for name in names:
                    alarms(name, kind, given.to)
                continue
            for seed in map(int, given.seeds.split(",")):
                for name in names:
                    detections(name, kind, seed, given.to)
    if parts == 1 or given.collect:
        collect(given.to, parameters().audit.risk)


if __name__ == "__main__":
    main()
