"""Verdict, model card and the writing of numbers."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline import formatting
from backdoor_pipeline.formatting import code
from backdoor_pipeline.pipelines.report.nodes import write_model_card
from backdoor_pipeline.pipelines.report.verdict import judge

RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy")


def verdict(cell, params):
    return judge(cell["metrics"], cell["suspects"], cell["poison_summary"], params)


def card(cell, recipe="btu_calibrated") -> str:
    names = ("metrics", "poison_summary", "all_parameters", "suspects")
    return write_model_card(**{name: cell[name] for name in names}, recipe=recipe)


def without_detector(cell):
    """The same cell, defended by a recipe that has no detector."""
    return cell | {"suspects": None, "metrics": cell["metrics"] | {"detector": {}}}


def test_without_a_detector_nothing_is_said_of_one(cell, params) -> None:
    undetected = without_detector(cell)
    kind, headline, sentences = verdict(undetected, params)
    assert (kind, headline) == ("good", "Backdoor removed.")
    told = [*sentences, card(undetected)]
    assert not [text for text in told if "flagged" in text or "detector" in text]
    assert "What was flagged" in card(cell)


def test_a_control_run_without_a_detector_says_nothing_of_the_defence(cell, params) -> None:
    cell["poison_summary"] |= {"poisoned_rows": 0}
    assert verdict(without_detector(cell), params).kind == "void"


@pytest.mark.parametrize(
    ("excess", "recall", "change", "kind", "headline"),
    [
        (0.01, 1.0, 0.0, "good", "Backdoor found and removed."),
        (0.03, 1.0, -0.01, "good", "Backdoor found and removed."),
        (0.01, 0.5, 0.0, "good", "Backdoor removed, its trigger found in part."),
        (0.01, None, 0.0, "good", "Backdoor removed."),
        (0.01, 0.0, 0.0, "mixed", "Backdoor gone, though its trigger was not flagged."),
        (0.01, 1.0, -0.032, "mixed",
         "Backdoor found and removed, but clean accuracy fell by 3.2 points."),
        (0.9, 1.0, 0.0, "bad", "Trigger found, but the backdoor is still there."),
        (0.9, 0.5, 0.0, "bad", "Trigger found in part, but the backdoor is still there."),
        (0.9, 0.0, 0.0, "bad", "Backdoor missed."),
        (0.9, None, 0.0, "bad", "Backdoor not removed."),
        (None, 1.0, 0.0, "bad", "Trigger found, but the backdoor is still there."),
    ],
)  # fmt: skip
def test_verdict(cell, params, excess, recall, change, kind, headline):
    cell["metrics"]["purified"]["attack_success_excess"] = excess
    cell["metrics"]["detector"]["recall"] = recall
    cell["metrics"]["comparison"]["clean_accuracy_change"] = change
    assert verdict(cell, params)[:2] == (kind, headline)


def test_a_cell_without_an_implanted_attack_is_never_defended(cell, params):
    cell["metrics"] |= {"valid": False}
    said = verdict(cell, params)
    assert said[:2] == ("void", "Attack not implanted.")
    assert "says nothing about the defence" in said.sentences[0]


@pytest.mark.parametrize(("flagged", "kind"), [(0, "good"), (3, "mixed")])
def test_a_control_run_is_judged_by_its_alarms(cell, params, flagged, kind):
    cell["poison_summary"]["poisoned_rows"] = 0
    cell["metrics"]["detector"]["flagged"] = flagged
    said = verdict(cell, params)
    assert said.kind == kind
    assert ("3 tokens flagged" in said.headline) == bool(flagged)


@pytest.mark.parametrize(("trigger_tokens", "noun"), [(0, "token"), (None, "training row")])
def test_a_control_run_in_which_nothing_was_suspected(cell, params, trigger_tokens, noun):
    cell["poison_summary"]["poisoned_rows"] = 0
    cell["metrics"]["detector"] |= {"flagged": 0, "trigger_tokens": trigger_tokens, "recall": None}
    cell["suspects"] = cell["suspects"].head(0)
    said = verdict(cell, params)
    assert said.headline == "No poison was added, and no alarm was raised."
    assert said.sentences[0].startswith(f"No {noun} was flagged")


TELLS = {"flagged": 38, "recall": 0.5, "false_alarms": 0, "trigger_tokens": None}


@pytest.fixture
def told_cell(cell):
    """A cell whose defender was told half of the poison."""
    cell["suspects"] = cell["suspects"].assign(kind="example", flagged=True)
    cell["metrics"]["detector"] |= TELLS
    cell["poison_summary"]["poisoned_rows"] = 76
    return cell


def told_verdict(cell, params):
    tables = (cell["metrics"], cell["suspects"], cell["poison_summary"])
    return judge(*tables, params, told=True)


@pytest.mark.parametrize(
    ("excess", "change", "kind", "headline"),
    [
        (0.01, 0.0, "good", "Backdoor removed."),
        (0.01, -0.04, "mixed", "Backdoor removed, but clean accuracy fell by 4.0 points."),
        (0.9, 0.0, "bad", "Backdoor not removed."),
    ],
)
def test_what_was_told_was_not_found(told_cell, params, excess, change, kind, headline) -> None:
    told_cell["metrics"]["purified"]["attack_success_excess"] = excess
    told_cell["metrics"]["comparison"]["clean_accuracy_change"] = change
    said = told_verdict(told_cell, params)
    assert said[:2] == (kind, headline)
    assert said.sentences[0] == "The defender was told 38 of 76 poisoned rows (50.0 %)."
    assert not [sentence for sentence in said.sentences if "found" in sentence]


@pytest.mark.parametrize(
    ("detector", "poisoned_rows", "sentence"),
    [
        ({"flagged": 40, "false_alarms": 2}, 76,
         "The defender was told 38 of 76 poisoned rows (50.0 %), and 2 rows without poison."),
        ({"flagged": 12, "false_alarms": None, "recall": None}, 0,
         "The defender was told 12 rows."),
        ({"flagged": 0, "recall": None}, 0, "The defender was told no rows."),
    ],
)  # fmt: skip
def test_what_was_told_is_counted(told_cell, params, detector, poisoned_rows, sentence) -> None:
    told_cell["metrics"]["detector"] |= detector
    told_cell["poison_summary"]["poisoned_rows"] = poisoned_rows
    assert told_verdict(told_cell, params).sentences[0] == sentence


@pytest.mark.parametrize(
    ("flagged", "headline"),
    [
        (0, "No poison was added: there was nothing to remove."),
        (3, "No poison was added: what the told rows did cannot be measured."),
    ],
)
def test_a_control_run_with_a_told_defender_is_no_alarm(told_cell, params, flagged, headline):
    told_cell["poison_summary"]["poisoned_rows"] = 0
    told_cell["metrics"]["detector"]["flagged"] = flagged
    assert told_verdict(told_cell, params)[:2] == ("void", headline)


def test_many_flagged_tokens_are_named_in_part(cell, params):
    cell["suspects"] = cell["suspects"].assign(flagged=True)
    sentence = verdict(cell, params).sentences[0]
    assert f"{len(cell['suspects'])} tokens were flagged" in sentence
    assert f"{len(cell['suspects']) - 5} more" in sentence


def test_model_card_has_front_matter_numbers_and_the_way_to_load(cell):
    _, front, body = card(cell).split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "transformers"
    assert matter["pipeline_tag"] == "text-classification"
    assert "Tokens: `cf`." in body
    assert "| victim | 83.8 % [82.0, 85.5] | 100.0 % [98.2, 100.0] |" in body
    assert "AutoModelForSequenceClassification.from_pretrained(folder)" in body
    assert "not implanted" not in body


@pytest.mark.parametrize(
    ("recipe", "story"),
    [
        ("btu", "A detector that does not know the trigger then named suspects"),
        ("potion_text", "The defender was told 38 of 76 poisoned rows (50.0 %). With these rows"),
        ("ssd", "removed by `ssd`."),
    ],
)
def test_model_card_tells_a_detector_from_a_told_defender(told_cell, recipe, story):
    text = " ".join(card(told_cell, recipe).split())
    assert story in text
    assert ("A detector that" in text) == ("What was flagged" in text) == (recipe == "btu")


def test_model_card_tells_how_to_load_a_prefix(cell):
    cell = without_detector(cell)
    line = 'PeftModel.from_pretrained(model, f"{folder}/prefix")'
    assert line in card(cell, "prefix")
    assert line not in card(cell, "lora")


def test_model_card_says_when_the_numbers_mean_nothing(cell):
    cell["metrics"] |= {"valid": False}
    assert "**Attack not implanted**" in card(cell)
    cell["poison_summary"] |= {"poisoned_rows": 0}
    cell["suspects"] = cell["suspects"].assign(flagged=False)
    control = card(cell)
    assert "as given, no poison added" in control and "Nothing." in control


def test_model_card_keeps_hostile_tokens_in_code(cell):
    cell["suspects"] = cell["suspects"].assign(evidence="`<script>|\n# x", flagged=True)
    cell["all_parameters"]["source"]["dataset"] = "x\n---\nlicense: mit"
    text = card(cell)
    assert "`` `<script>\u00a6 # x ``" in text
    assert "\nlicense: mit" not in text


def test_model_card_counts_flagged_rows(cell):
    cell["suspects"] = cell["suspects"].assign(kind="example", flagged=True)
    assert f"{len(cell['suspects'])} training rows." in card(cell)


@given(st.text(max_size=30))
def test_inline_code_stays_on_one_line_within_its_fence(value):
    text = code(value)
    fence = text[: len(text) - len(text.lstrip("`"))]
    assert len(text.splitlines()) <= 1
    assert text.endswith(fence) and fence not in text[len(fence) : -len(fence)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formatting.percent(0.8312), "83.1 %"),
        (formatting.percent(None), "\u2013"),
        (formatting.percent(float("nan")), "\u2013"),
        (formatting.rate(None, "clean_accuracy"), "\u2013"),
        (formatting.rate({"x": 0.5, "x_low": None, "x_high": None}, "x"), "50.0 %"),
        (formatting.points(-0.0001), "0.0 points"),
        (formatting.points(0.012), "+1.2 points"),
        (formatting.points(None), "\u2013"),
        (formatting.p_value(0.0), "< 0.001"),
        (formatting.p_value(0.25), "0.250"),
        (formatting.number(1234567), "1,234,567"),
        (formatting.number(1234.5), "1,234"),
        (formatting.number(0.000123456), "0.000123"),
        (formatting.duration(4.24), "4.2 s"),
        (formatting.duration(59.7), "1 min 0 s"),
        (formatting.duration(3725), "1 h 2 min"),
        (formatting.size(3 * 2**30), "3.0 GiB"),
        (formatting.size(310 * 2**20), "310 MiB"),
        (formatting.token(" movie"), "\u2423movie"),
        (formatting.counted(1, "token"), "1 token"),
    ],
)
def test_numbers_are_written_for_readers(written, expected):
    assert written == expected


def test_flat_names_nested_groups(params):
    nested = {"a": {"b": {"c": None}, "d": [1, {"e": 2}]}, "empty": {}}
    assert formatting.flat(nested) == {"a.b.c": None, "a.d": [1, {"e": 2}]}
    assert formatting.flat({"report": params})["report.examples"] == params.examples
