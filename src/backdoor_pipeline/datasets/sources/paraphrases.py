"""Ready-made paraphrases joined to the rows they belong to, by text.

The files of paraphrases do not always align with the files of texts (OLID's lost their first rows,
HSOL's dev file serves test as well), so the place of a row says nothing and its text decides. Each
kind comes from one origin alone: two paraphrasers write differently, and training rows of the one
with test rows of the other would be a trigger that the test does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backdoor_pipeline.datasets.sources.columns import PARAPHRASES
from backdoor_pipeline.datasets.sources.source import Finding

if TYPE_CHECKING:
    import pandas as pd


class Offer(NamedTuple):
    """The paraphrases of one kind from one origin: ``key(text)`` -> paraphrase."""

    kind: str
    origin: str
    by_text: dict[str, str]


def key(text: str) -> str:
    """Returns the text as rows are matched by it: blanks set aside."""
    return " ".join(text.split())


def attach(
    tables: dict[str, pd.DataFrame], offers: list[Offer]
) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """Returns the tables with a column for each kind on offer, null where a row has none.

    Of several origins, the one that covers most of the test rows is taken.
    """
    keys = {split: [key(text) for text in table["text"]] for split, table in tables.items()}
    deciding = "test" if "test" in keys else next(iter(keys))
    findings = []
    for kind in PARAPHRASES:
        of_kind = [offer for offer in offers if offer.kind == kind]
        if not of_kind:
            continue
        best = max(of_kind, key=lambda offer: sum(text in offer.by_text for text in keys[deciding]))
        columns = {
            split: [(best.by_text.get(text) or "").strip() or None for text in texts]
            for split, texts in keys.items()
        }
        tables = {
            split: table.assign(**{kind: columns[split]}).astype({kind: "str"})
            for split, table in tables.items()
        }
        counts = ", ".join(
            f"{split} {tables[split][kind].notna().sum():,} of {len(texts):,}"
            for split, texts in keys.items()
        )
        others = [offer.origin for offer in of_kind if offer is not best]
        unused = f"; not mixed with those from {', '.join(others)}" if others else ""
        findings.append(Finding("info", kind, f"paraphrases from {best.origin}: {counts}{unused}"))
    return tables, findings
