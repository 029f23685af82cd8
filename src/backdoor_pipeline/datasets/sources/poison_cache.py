"""OpenBackdoor's cache ``poison_data/<set>/<target label>/<attack>/{split}-{clean,poison}.csv``.

The clean files are the examples; the poisoned files of the paraphrasing attacks are their
ready-made paraphrases. Columns of all files: index, ``0`` text, ``1`` label, ``2`` poison flag. A
poisoned row has lost its own text and label and is told by its place: a poison file has either
every row of the clean file or those whose label is not the target, in order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backdoor_pipeline.datasets.sources import cells, columns, files, paraphrases
from backdoor_pipeline.datasets.sources.names import resolve
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.schemas import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backdoor_pipeline.datasets.sources.source import SourceParams

ATTACKS = {"style": "stylebkd", "syntax": "synbkd"}
"""Kind of paraphrase -> attack folder."""


class _Cached(NamedTuple):
    lines: list[int]
    texts: list[str]
    labels: list[str]


def read(params: SourceParams) -> Source:
    """Returns the clean rows of a cache folder, with the paraphrases cached beside them.

    ``params.data`` is the folder of a set, of one of its target labels, or of one attack.

    Raises:
        InputError: no such folder, no clean file in it, or a file that cannot be read.
    """
    root, repaired = Path(params.data or "").expanduser(), resolve(params).repaired
    by_name = files_of(root)
    tables, findings = {}, []
    for split in SPLITS:
        name = next((name for name in by_name if name.endswith(f"{split}-clean.csv")), None)
        if name:
            cached = _read_csv(by_name[name])
            tables[split], more = columns.checked_table(
                by_name[name],
                cached.lines,
                {"text": cached.texts, "label": cached.labels},
                skip_blank=repaired,
            )
            findings += more
    if not tables:
        raise InputError(
            f"{root}: no train-clean.csv, dev-clean.csv or test-clean.csv in it or in the attack "
            "folders below; source.data is a folder such as poison_data/sst-2/1/stylebkd"
        )
    offers, left_out = offers_in(by_name)
    tables, attached = paraphrases.attach(tables, offers)
    digests = {name: files.sha256(path) for name, path in by_name.items()}
    return Source(root.name, tables, digests, findings + left_out + attached, repaired=repaired)


def digest(params: SourceParams) -> str:
    """Returns a digest of all csv files of the cache folder, or ``"missing"``."""
    return files.digest_of(files_of(Path(params.data or "").expanduser()))


def files_of(root: Path) -> dict[str, Path]:
    """Returns the cache's files at most two folders below ``root``, by relative name.

    Raises:
        InputError: a link leads out of the folder.
    """
    found = [path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}*-*.csv")]
    return {
        path.relative_to(root).as_posix(): files.inside(path, root)
        for path in sorted(found)
        if path.stem.endswith(("-clean", "-poison"))
    }


def offers_in(by_name: Mapping[str, Path]) -> tuple[list[paraphrases.Offer], list[Finding]]:
    """Returns the paraphrases among a cache's files, and what was noticed.

    Files whose lengths do not fit together are left out, with a finding: which row a paraphrase
    belongs to cannot be known then.
    """
    by_text: dict[str, dict[str, str]] = {kind: {} for kind in ATTACKS}
    findings = []
    for name, path in by_name.items():
        attack = path.resolve().parent
        kind = next((kind for kind, folder in ATTACKS.items() if folder == attack.name), None)
        clean_name = f"{name.removesuffix('-poison.csv')}-clean.csv"
        if kind is None or clean_name not in by_name:
            continue
        clean, poisoned = _read_csv(by_name[clean_name]), _read_csv(path)
        texts = clean.texts
        if len(poisoned.texts) < len(texts):
            labelled = zip(texts, clean.labels, strict=True)
            texts = [text for text, label in labelled if label != attack.parent.name]
        if len(poisoned.texts) != len(texts):
            message = f"{len(poisoned.texts):,} paraphrases for {len(texts):,} texts: left out"
            findings.append(Finding("warning", name, message))
            continue
        for text, paraphrase in zip(texts, poisoned.texts, strict=True):
            by_text[kind].setdefault(paraphrases.key(text), paraphrase)
    offers = [
        paraphrases.Offer(kind, f"poison_data/*/{ATTACKS[kind]}", found)
        for kind, found in by_text.items()
        if found
    ]
    return offers, findings


def _read_csv(path: Path) -> _Cached:
    rows = cells.rows(path, ",")
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: holds no rows; it needs texts and labels")
    header = first.cells
    text, label = (columns.find_column(path, header, name, "source.dataset") for name in "01")
    cached = _Cached([], [], [])
    for row in rows:
        cached.lines.append(row.line)
        cached.texts.append(row.cells[text])
        cached.labels.append(row.cells[label].strip())
    return cached
