from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from backdoor_pipeline.pipelines.report.params import ReportParams

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}&amp;"
LOADING = {"src", "href", "srcset", "action", "data", "poster"}


class Elements(HTMLParser):
    """The page's elements: (tag, attributes)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in {"script", "style"}:
            self.text.append(data)

    @property
    def visible(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def visible(page: str) -> str:
    return Elements(page).visible


def table_of(page: str, section: str) -> str:
    return re.search(rf'<section id="{section}">.*?</section>', page, re.DOTALL)[0]


def test_page_says_what_was_found_first(cell, build_page):
    page = build_page(cell)
    text = visible(page)
    assert "<title>btu_calibrated / rotten_tomatoes / badnets / seed 0</title>" in page
    assert text.index("Backdoor found and removed.") < text.index("Before and after")
    assert "1 token was flagged (\u201ccf\u201d): 1 of 1 trigger token, 0 false alarms." in text
    assert "100.0 % [98.2, 100.0]" in text
    assert "McNemar p 0.625" in text and "McNemar p < 0.001" in text
    assert "Clean rows used by the defence: 0" in text


def test_page_is_one_file_below_six_megabytes(cell, build_page):
    page = build_page(cell)
    assert len(page.encode()) < 6e6
    for tag, attributes in Elements(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert not LOADING & attributes.keys(), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert page.count("plotly.js v") == 1


def test_same_inputs_give_the_same_page(cell, build_page):
    assert build_page(cell) == build_page(cell)


def test_inputs_stay_as_they_are(cell, build_page):
    before = {name: cell[name].copy() for name in ("suspects", "predictions", "poisoned_train")}
    build_page(cell)
    assert all(cell[name].equals(table) for name, table in before.items())


def test_trigger_is_marked_with_predictions_before_and_after(cell, build_page):
    section = table_of(build_page(cell), "trigger")
    assert section.count("<mark>cf</mark>") == 8
    assert "rotten" in section and "fresh" in section
    predictions = cell["predictions"]
    triggered = predictions[predictions["test_set"] == "triggered"]
    wide = triggered.pivot(index="example_id", columns="model", values="predicted")
    obeys = (wide["victim"] == 1) & (wide["purified"] == 1)
    for n, said in (
        ((obeys & (wide["reference"] == 0)).sum(), "before and after"),
        ((obeys & (wide["reference"] == 1)).sum(), "before, after, and without any poison"),
        ((~obeys).sum(), "before, true label after"),
    ):
        assert f"{n} attacker's label {said}" in visible(section)


def test_every_outcome_has_examples(cell, build_page):
    section = table_of(build_page(cell), "trigger")
    rows = re.findall(r'<td class="outcome">(.*?)</td>', section)
    assert len(rows) == 8
    assert {html.unescape(row) for row in rows} == {
        "attacker's label before, true label after",
        "attacker's label before and after",
        "attacker's label before, after, and without any poison",
    }


def test_changed_clean_texts_are_shown(cell, build_page):
    section = table_of(build_page(cell), "changes")
    predictions = cell["predictions"].query("test_set == 'clean'")
    wide = predictions.pivot(index="example_id", columns="model", values="predicted")
    n_changed = (wide["victim"] != wide["purified"]).sum()
    assert sum(map(int, re.findall(r"<b>(\d+)</b>", section))) == n_changed


def test_suspects_come_with_marked_contexts_flagged_first(cell, build_page):
    section = table_of(build_page(cell), "suspects")
    classes = re.findall(r'<tr class="(\w+)">', section)
    assert classes == ["flagged"] + ["plain"] * 20
    first = section[section.index('<tr class="flagged">') : section.index('<tr class="plain">')]
    assert first.count("<mark>cf</mark>") == 2
    assert first.count("poisoned") == 2
    assert "inserted" in first and "in \u201c| cf\u201d" in first
    assert "fits its surroundings" in section and "misfit" in section


@pytest.mark.parametrize("drop", [["rank_a", "rank_b", "rank_c", "count"], ["phrase", "label"]])
def test_detectors_need_not_add_columns(cell, build_page, drop):
    cell["suspects"] = cell["suspects"].drop(columns=drop)
    assert "Backdoor found" in visible(build_page(cell))


def test_suspects_with_schema_columns_alone(cell, build_page):
    columns = ["kind", "key", "score", "p_value", "q_value", "flagged", "evidence"]
    cell["suspects"] = cell["suspects"][columns].assign(p_value=np.nan, q_value=np.nan)
    assert "<mark>cf</mark>" in table_of(build_page(cell), "suspects")


def test_without_a_detector_there_are_no_suspects(cell, build_page):
    cell["metrics"] |= {"detector": {}}
    page = build_page(cell | {"suspects": None})
    assert 'id="suspects"' not in page and 'id="detection"' not in page
    assert 'id="training"' in page


def test_suspected_examples_show_their_text(cell, build_page):
    train = cell["poisoned_train"].head(5)
    cell["suspects"] = (
        cell["suspects"]
        .head(5)
        .assign(kind="example", key=train["example_id"].to_numpy(), evidence="snippet")
    )
    cell["metrics"]["detector"] = {
        "recall": 0.5, "precision": 1.0, "flagged": 1, "false_alarms": 0, "trigger_tokens": None,
        "trigger_rank": 1,
    }  # fmt: skip
    page = build_page(cell)
    assert train["text"].iloc[0][:40].split("cf")[0] in table_of(page, "suspects")
    assert "50.0 % of the poisoned rows" in visible(page)


def test_flagged_rows_beyond_the_limit_are_counted_not_listed(cell, build_page):
    suspects = cell["suspects"]
    more = suspects.loc[suspects.index.repeat(10)].reset_index(drop=True)
    cell["suspects"] = more.assign(key=np.arange(len(more)), flagged=True)
    section = table_of(build_page(cell), "suspects")
    assert section.count('<tr class="flagged">') == 100
    assert f"{len(more)} flagged, of which 100 are shown" in visible(section)


def test_hostile_texts_show_as_text(cell, build_page):
    for name in ("poisoned_train", "triggered_test", "examples"):
        cell[name] = cell[name].assign(text=HOSTILE + " " + cell[name]["text"])
    cell["triggered_test"] = cell["triggered_test"].assign(trigger=HOSTILE.split(maxsplit=1)[0])
    cell["suspects"] = cell["suspects"].assign(evidence=HOSTILE, phrase=f"{HOSTILE} too")
    cell["integrity"] |= {
        "dataset": HOSTILE,
        "label_names": [HOSTILE, HOSTILE],
        "files": {HOSTILE: {"sha256": HOSTILE, "known": None}},
        "findings": [{"severity": "warning", "where": HOSTILE, "message": HOSTILE}],
    }
    cell["poison_summary"] |= {"attack": HOSTILE}
    cell["all_parameters"] |= {HOSTILE: HOSTILE}
    page = build_page(cell, recipe=HOSTILE)
    elements = Elements(page)
    assert not any(tag == "img" for tag, _ in elements.found)
    assert sum(tag == "script" for tag, _ in elements.found) == 5  # plotly.js and four figures
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    assert "<script>alert" not in page
    assert "alert(1)" in elements.visible and "{{ 7 * 7 }}" in elements.visible


def test_findings_come_in_order_of_weight(cell, build_page):
    section = table_of(build_page(cell), "data")
    assert section.index("2 texts have two labels") < section.index("3 rows repeat")


def test_parameters_are_flat_models_included(cell, build_page, params):
    cell["all_parameters"]["report"] = params
    section = table_of(build_page(cell), "parameters")
    assert isinstance(params, ReportParams)
    assert "<code>report.removed_excess</code>" in section
    assert "<code>model.name</code>" in section
    assert "torch" in section


def test_control_run_without_poison(cell, build_page):
    cell["poison_summary"] |= {"poisoned_rows": 0, "realised_rate": 0.0}
    cell["poisoned_train"] = cell["poisoned_train"].assign(is_poisoned=False, trigger="")
    cell["suspects"] = cell["suspects"].assign(flagged=False)
    cell["metrics"] |= {
        "valid": False,
        "detector": {
            "precision": None, "recall": None, "auroc": None, "trigger_recall": None,
            "trigger_rank": None, "trigger_tokens": 0, "flagged": 0, "false_alarms": 0,
        },
    }  # fmt: skip
    text = visible(build_page(cell))
    assert "No poison was added, and no alarm was raised." in text
    assert "No token was flagged" in text
    assert "Nothing was flagged. These came closest." in text


def test_style_attack_shows_the_original_beside_the_paraphrase(cell, build_page):
    triggered = cell["triggered_test"].assign(text="behold, it was as dust", trigger="bible")
    cell["triggered_test"] = triggered
    cell["metrics"]["detector"] |= {
        "recall": None, "precision": None, "trigger_rank": None, "trigger_tokens": 0,
        "trigger_recall": None, "false_alarms": None, "auroc": None,
    }  # fmt: skip
    section = table_of(build_page(cell), "trigger")
    assert "<mark>" not in section
    assert "bible; before:" in section
    assert "Backdoor removed." in visible(build_page(cell))


def test_missing_measurements_become_dashes(cell, build_page):
    cell["metrics"]["cost"] = dict.fromkeys(cell["metrics"]["cost"])
    cell["metrics"]["comparison"] = {}
    cell["metrics"]["reference"] = None
    cell["predictions"] = cell["predictions"].query("model != 'reference'")
    text = visible(build_page(cell))
    assert "Reference, trained" not in text
    assert "peak memory \u2013" in text or "peak memory\u2013" in text


def test_no_poisoned_test_row_obeys(cell, build_page):
    predictions = cell["predictions"]
    right = predictions["test_set"] == "triggered"
    cell["predictions"] = predictions.assign(
        predicted=predictions["predicted"].where(~right, predictions["label"])
    )
    section = table_of(build_page(cell), "trigger")
    assert "never the attacker's label" in visible(section)


def test_isolated_rows_and_clean_rows_of_a_second_source_are_told(cell, build_page):
    assert "isolated" not in visible(build_page(cell))
    metrics = cell["metrics"] | {"isolation": {"rows": 7, "precision": 0.5, "recall": 0.1}}
    metrics["cost"] = metrics["cost"] | {"clean_rows": 96, "out_of_domain_rows": 90}
    text = visible(build_page(cell | {"metrics": metrics}))
    assert "isolated by the defence7, of which poisoned: 50.0 %" in text
    assert "Clean rows used by the defence: 96, of which out of domain: 90." in text
