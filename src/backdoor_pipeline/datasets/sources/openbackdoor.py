"""Data sets in OpenBackdoor's folders, known ones and any other of the same layout.

Layouts of a split (thunlp/OpenBackdoor, ``openbackdoor/data``):

* ``train.tsv`` or ``train.csv``: text and label, with or without a header; AG News as csv has label
  (from 1), title and body, no header;
* ``train.txt`` with ``train_labels.txt``: one text and one label a line (IMDb, DBpedia).

Beside the folder ``<set>`` may lie ``<set>-style`` and ``<set>-syn``, whose third column is a
ready-made paraphrase, and a ``poison_data`` cache.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backdoor_pipeline.datasets.sources import (
    cells,
    columns,
    files,
    paraphrases,
    poison_cache,
)
from backdoor_pipeline.datasets.sources.known import KNOWN, Known
from backdoor_pipeline.datasets.sources.names import SEPARATORS, resolve
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.schemas import SPLITS

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams

SIBLINGS = {"style": "-style", "syntax": "-syn"}
"""Kind of paraphrase -> ending of the folder that holds it."""

_TEXT_NAMES = ("sentence", "text", "review", "tweet", "content", "comment_text", "body")
_LABEL_NAMES = ("label", "labels", "class", "target")
_INTEGER = re.compile(r"\s*-?\d+\s*")
_TITLED = 3  # cells in a row of AG News as csv: label, title, body
_PARAPHRASE = 2  # place of the paraphrase in a row of a -style or -syn file


class _Rows(NamedTuple):
    lines: list[int]
    texts: list[str]
    labels: list[str]


def read(params: SourceParams) -> Source:
    """Returns the splits of the set's folder, with the paraphrases found beside it.

    Where there is no train file, dev is taken as the training data, with a finding.

    Raises:
        InputError: no such folder, no split in it, or a file that cannot be read.
    """
    name, repaired = resolve(params)
    known = KNOWN.get(name)
    folder = _folder(params, known)
    split_files = _split_files(folder) if folder else {}
    if folder is None or not split_files:
        raise InputError(_not_found(params, known))
    tables, findings = {}, []
    for split, paths in split_files.items():
        rows, more = _read_split(paths, params, own=known is None)
        labels: list[str] | list[int] = rows.labels
        if known:
            labels = columns.whole_numbers(
                paths[0], rows.lines, rows.labels, len(known.label_names)
            )
        tables[split], blank = columns.checked_table(
            paths[0], rows.lines, {"text": rows.texts, "label": labels}, skip_blank=repaired
        )
        findings += more + blank
    if "train" not in tables and "dev" in tables:
        tables = {"train": tables.pop("dev"), **tables}
        findings.append(
            Finding("warning", "train", "no train file: the dev file is used as training data")
        )
    cached, left_out = poison_cache.offers_in(_cache_files(params, known))
    tables, attached = paraphrases.attach(tables, _sibling_offers(folder) + cached)
    return Source(
        name=name if known else folder.resolve().name,
        tables=tables,
        files={name: files.sha256(path) for name, path in _files(params, known, folder).items()},
        findings=findings + left_out + attached,
        label_names=known.label_names if known else None,
        known=known,
        repaired=repaired,
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of the set's files and its paraphrases, or ``"missing"``."""
    known = KNOWN.get(resolve(params).name)
    folder = _folder(params, known)
    return files.digest_of(_files(params, known, folder) if folder else {})


def _folder(params: SourceParams, known: Known | None) -> Path | None:
    """Returns the set's folder; of several spellings, the one with most splits."""
    if known is None:
        folder = Path(params.data or "").expanduser()
        return folder if folder.is_dir() else None
    root = Path(params.folder).expanduser()
    found = [
        files.inside(folder, root)
        for base in _bases(params)
        for folder in sorted(base.glob(f"{known.task}/*/"))
        if _spelling(folder) in known.spellings
    ]
    return max(found, key=lambda folder: len(_split_files(folder)), default=None)


def _bases(params: SourceParams) -> list[Path]:
    root = Path(params.folder).expanduser()
    return [root / "openbackdoor", root]


def _spelling(folder: Path) -> str:
    return re.sub(r"[\W_]", "", folder.name.casefold())


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """Returns split -> its file, or its file of texts and its file of labels."""
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        for names in ([f"{split}.tsv"], [f"{split}.csv"], [f"{split}.txt", f"{split}_labels.txt"]):
            paths = [folder / name for name in names]
            if split not in found and all(path.exists() for path in paths):
                found[split] = [files.inside(path, folder) for path in paths]
    return found


def _siblings(folder: Path) -> dict[str, Path]:
    """Returns kind of paraphrase -> the folder beside the set's that holds it."""
    beside = {kind: folder.with_name(folder.name + end) for kind, end in SIBLINGS.items()}
    return {
        kind: files.inside(sibling, folder.parent)
        for kind, sibling in beside.items()
        if sibling.is_dir()
    }


def _cache_files(params: SourceParams, known: Known | None) -> dict[str, Path]:
    """Returns the files of the set's ``poison_data`` cache that hold paraphrases."""
    found: dict[str, Path] = {}
    for base in _bases(params) if known else []:
        for folder in sorted(base.glob("poison_data/*/")):
            if known and _spelling(folder) in known.spellings:
                by_name = poison_cache.files_of(files.inside(folder, base))
                found |= {
                    f"poison_data/{folder.name}/{name}": path
                    for name, path in by_name.items()
                    if path.parent.name in poison_cache.ATTACKS.values()
                }
    return found


def _files(params: SourceParams, known: Known | None, folder: Path) -> dict[str, Path]:
    """Returns all files that the result depends on; those of the set itself by their plain name."""
    own = [path for paths in _split_files(folder).values() for path in paths]
    found = {path.name: path for path in own}
    for sibling in _siblings(folder).values():
        beside = [path for paths in _split_files(sibling).values() for path in paths]
        found |= {f"{sibling.name}/{path.name}": path for path in beside}
    return found | _cache_files(params, known)


def _sibling_offers(folder: Path) -> list[paraphrases.Offer]:
    offers = []
    for kind, sibling in _siblings(folder).items():
        by_text: dict[str, str] = {}
        for paths in _split_files(sibling).values():
            for row in cells.rows(paths[0], SEPARATORS.get(paths[0].suffix, "\t")):
                if len(row.cells) > _PARAPHRASE:
                    text, paraphrase = row.cells[0], row.cells[_PARAPHRASE]
                    by_text.setdefault(paraphrases.key(text), paraphrase)
        if by_text:
            offers.append(paraphrases.Offer(kind, sibling.name, by_text))
    return offers


def _read_split(paths: list[Path], params: SourceParams, own: bool) -> tuple[_Rows, list[Finding]]:
    if len(paths) == 1:
        return _read_table(paths[0], params, own)
    texts, labels = (cells.plain_lines(path) for path in paths)
    if len(texts) != len(labels):
        raise InputError(
            f"{paths[0]}: {len(texts):,} texts, but {len(labels):,} labels in {paths[1].name}; "
            "they must have the same number of lines"
        )
    return _Rows(list(range(1, len(texts) + 1)), texts, labels), []


def _read_table(path: Path, params: SourceParams, own: bool) -> tuple[_Rows, list[Finding]]:
    rows = list(cells.rows(path, SEPARATORS[path.suffix]))
    if not rows:
        raise InputError(f"{path}: holds no rows; it needs texts and labels")
    first = rows[0].cells
    findings: list[Finding] = []
    if path.suffix == ".tsv":
        findings += filter(None, [cells.quoting_finding(path, len(rows))])
    if not _is_header(first) and len(first) == _TITLED and _INTEGER.fullmatch(first[0]):
        return _titled(path, rows), findings
    if _is_header(first):
        if own and first[:1] != [""]:
            _check_names(path, first, params)
        text, label, more = _named_columns(path, first, params)
        findings += more
        rows = rows[1:]
    else:
        if len(first) == 1:
            columns.find_column(path, first, params.text, "source.text")
        label = max(i for i, cell in enumerate(first) if _INTEGER.fullmatch(cell))
        text = 0 if label else 1
    read = _Rows(
        [row.line for row in rows],
        [row.cells[text] for row in rows],
        [row.cells[label] for row in rows],
    )
    if padded := sum(label != label.strip() for label in read.labels):
        findings.append(Finding("info", path.name, f"blanks around {padded:,} labels set aside"))
    return read, findings


def _is_header(cells: list[str]) -> bool:
    """Says whether a first row names columns: no class number in it, or pandas' own numbering."""
    return cells[:3] == ["", "0", "1"] or not any(_INTEGER.fullmatch(cell) for cell in cells)


def _named_columns(
    path: Path, header: list[str], params: SourceParams
) -> tuple[int, int, list[Finding]]:
    """Returns the positions of text and label; by place (text, label) where no name is known."""
    names = [name.strip().casefold() for name in header]
    for wanted in (params.text, params.label):
        if names.count(wanted.casefold()) > 1:
            columns.find_column(path, names, wanted.casefold(), "source.text")
    findings = []
    if names != [name.casefold() for name in header]:
        findings.append(
            Finding("info", path.name, f"blanks around the column names {header} set aside")
        )
    if len(header) == 1:
        columns.find_column(path, header, params.text, "source.text")
    index = int(names[0] == "")  # a table written by pandas begins with its row numbers
    label = _first(names, (params.label.casefold(), *_LABEL_NAMES))
    text = _first(names, (params.text.casefold(), *_TEXT_NAMES))
    if text is None and label is None and not index:
        findings.append(
            Finding(
                "warning",
                path.name,
                f"the first line {header} names no known column: it may be a lost row of data; "
                "text and label are taken by their place",
            )
        )
    if label is None:
        label = index + 1 if text in (None, index) else index
    if text is None:
        text = index if label != index else index + 1
    return text, label, findings


def _check_names(path: Path, header: list[str], params: SourceParams) -> None:
    """Nothing, if the header of a user's own file names the text and the label.

    Raises:
        InputError: a column is not there: what stands in another place is not taken for it.
    """
    names = [name.strip().casefold() for name in header]
    for wanted, usual, name in (
        (params.text, _TEXT_NAMES, "text"),
        (params.label, _LABEL_NAMES, "label"),
    ):
        instead = usual if wanted == name else ()
        if wanted.casefold() not in names and not set(instead) & set(names):
            columns.find_column(path, header, wanted, f"source.{name}")


def _first(names: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _titled(path: Path, rows: list[cells.Row]) -> _Rows:
    """Returns AG News as csv: label from 1, title and body, a backslash for each line break."""
    for row in rows:
        if not _INTEGER.fullmatch(row.cells[0]):
            raise InputError(
                f"{path}, line {row.line}: the label {row.cells[0]!r} is unknown; in rows of "
                "label, title and body it is a number from 1"
            )
    return _Rows(
        [row.line for row in rows],
        [f"{row.cells[1]} {row.cells[2]}".replace("\\", " ") for row in rows],
        [str(int(row.cells[0]) - 1) for row in rows],
    )


def _not_found(params: SourceParams, known: Known | None) -> str:
    layout = "train.tsv, train.csv, or train.txt with train_labels.txt (likewise dev and test)"
    if known is None:
        path = Path(params.data or "").expanduser()
        state = "holds no" if path.is_dir() else "is no folder with"
        return f"source.data {params.data}: {state} {layout}"
    tried = ", ".join(f"{base / known.task}/{known.spellings[0]}" for base in _bases(params))
    return (
        f"source.dataset {params.dataset}: no folder with {layout} at {tried}; set source.folder "
        "(or the environment variable BACKDOOR_DATA) to the folder that holds it"
    )
