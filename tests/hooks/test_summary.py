"""The table that a run prints at its end."""

from __future__ import annotations

import json

from backdoor_pipeline.hooks.summary import summary_table

MODEL = {"clean_accuracy": 0.84, "attack_success_rate": 1.0,
         "attack_success_rate_low": 0.982, "attack_success_rate_high": 1.0}  # fmt: skip
METRICS = {
    "reference": MODEL,
    "victim": MODEL,
    "purified": MODEL,
    "detector": {
        "trigger_recall": 1.0,
        "trigger_rank": 1,
        "trigger_tokens": 1,
        "flagged": 1,
        "false_alarms": 0,
    },
    "cost": {
        "wall_seconds": 94.2,
        "examples_per_second": 312.4,
        "peak_memory_bytes": 1_400_000_000,
        "clean_rows": 0,
    },
    "valid": True,
}


def test_is_small_and_complete() -> None:
    lines = summary_table(METRICS, "btu_calibrated").splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("btu_calibrated")
    assert [line.split()[0] for line in lines[1:4]] == ["reference", "victim", "purified"]
    assert "100.0 % [98.2, 100.0]" in lines[2]
    assert "trigger rank 1, false alarms 0" in lines[4]
    assert "clean rows used: 0" in lines[5]


def test_survives_json_missing_values_and_long_names() -> None:
    metrics = METRICS | {"valid": False, "reference": None}
    metrics["detector"] = dict.fromkeys(METRICS["detector"])
    metrics["cost"] = dict.fromkeys(METRICS["cost"])
    text = summary_table(json.loads(json.dumps(metrics)), "a_recipe_with_a_very_long_name" * 3)
    assert max(map(len, text.splitlines())) <= 100
    assert "attack not implanted" in text


def test_without_a_detector_nothing_is_said_of_one() -> None:
    assert "detector" not in summary_table(METRICS | {"detector": {}}, "lora")


def test_tells_clean_rows_of_a_second_source() -> None:
    used = METRICS["cost"] | {"clean_rows": 96, "out_of_domain_rows": 96}
    assert "96 are out of domain" in summary_table(METRICS | {"cost": used}, "musclelora")
    assert "out of domain" not in summary_table(METRICS, "musclelora")


def test_of_images_it_tells_what_healed_and_what_was_told() -> None:
    detector = {"flagged": 38, "recall": 0.5, "false_alarms": 0, "trigger_rank": 1}
    healed = {"healed": 0.75, "healed_low": 0.5, "healed_high": 0.875}
    metrics = METRICS | {"detector": detector, "comparison": healed}
    lines = summary_table(metrics, "potion").splitlines()
    assert len(lines) <= 12
    assert lines[4].split(maxsplit=1) == [
        "healed",
        "75.0 % [50.0, 87.5] of what the trigger spoils",
    ]
    assert lines[5].split(maxsplit=1) == ["told", "38 training rows, 50.0 % of the poisoned ones"]
    assert "false alarms" not in "".join(lines)
    of_texts = summary_table(metrics, "potion_text")
    assert "told" in of_texts and "healed" not in of_texts
    assert "\u2013 of what" in summary_table(METRICS, "ssd")  # not known
