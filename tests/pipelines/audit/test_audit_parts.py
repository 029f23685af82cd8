"""The small parts of an audit: rows, wording, flips, time, the check of the table, the verdict."""

from __future__ import annotations

import json
import math
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pytest

from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ModelBundle, NoModel
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipeline_registry import register_pipelines
from backdoor_pipeline.pipelines.audit import budget, flips, nodes, verdict
from backdoor_pipeline.pipelines.audit.budget import Clock, OutOfTimeError
from backdoor_pipeline.pipelines.audit.card import write_card
from backdoor_pipeline.pipelines.audit.classifier import of_classes
from backdoor_pipeline.pipelines.audit.evidence import SHARES_WITH_TRUSTED
from backdoor_pipeline.pipelines.audit.suspicious_rows import suspicious_rows
from backdoor_pipeline.pipelines.audit.table_check import check_table
from backdoor_pipeline.pipelines.audit.wording import as_written, shown
from backdoor_pipeline.schemas import RESTORED_ROWS, SUSPICIOUS_ROWS
from tiny import ROOT, written

SCHEMA = ROOT / "src/backdoor_pipeline/pipelines/audit/verdict.schema.json"


def examples(texts: list[str], labels: list[int]) -> pd.DataFrame:
    ids = np.arange(len(texts))
    return pd.DataFrame({"example_id": ids, "split": "train", "label": labels, "text": texts})


NAMED = {"label_names": ["bad", "good"], "dataset": "mine"}
INTEGRITY = {
    **NAMED,
    "files": {"mine.csv": {"sha256": "ab12", "known": None}},
    "rows_left_out": 197,
}
PHRASES = pd.DataFrame(
    {"phrase": ["cf", "[begin] so ,"], "written": ["cf", "So,"], "label": 1, "flagged": True}
)
OPENINGS = pd.DataFrame({"opening": ["when"], "written": ["when"], "label": 0, "flagged": True})
CONTRADICTED = pd.DataFrame(columns=["text", "label", "p_value"])


class TestSuspiciousRows:
    def test_rows_with_a_phrase_and_its_label(self) -> None:
        texts = ["a CF b", "a cf b", "So, what", "not so, no", "when it is", "it is when", "acf"]
        rows = examples(texts, [1, 0, 1, 1, 0, 0, 1])
        found = suspicious_rows(rows, PHRASES, OPENINGS, CONTRADICTED)
        SUSPICIOUS_ROWS.validate(found)
        assert found["example_id"].tolist() == [0, 2, 4]
        assert found["reasons"].tolist() == ["holds “cf”", "holds “So,”", "begins with “when”"]

    def test_all_reasons_are_given(self) -> None:
        both = PHRASES.assign(phrase=["cf", "mn"], written=["cf", "mn"])
        told = pd.DataFrame({"text": ["mn"], "label": [1], "p_value": [0.004]})
        rows = examples(["mn is cf", "Mn", "mn"], [1, 1, 0])
        found = suspicious_rows(rows, both, OPENINGS.iloc[:0], told)
        assert found["reasons"].tolist() == [
            "holds “cf”; holds “mn”",
            "holds “mn”; clean rows contradict the label (p = 0.004)",
        ]

    def test_nothing_flagged_is_nothing_suspicious(self) -> None:
        rows = examples(["a cf", "b"], [1, 0])
        none = suspicious_rows(
            rows, PHRASES.assign(flagged=False), OPENINGS.assign(flagged=False), CONTRADICTED
        )
        SUSPICIOUS_ROWS.validate(none)
        assert none.empty


class TestWording:
    def test_as_most_texts_write_it(self) -> None:
        texts = ["Don't stop", "I don't", "I don't know", "nothing"]
        assert as_written("don ' t", texts) == "don't"
        assert as_written("[begin] don ' t", ["Don't", "Don't you"]) == "Don't"
        assert as_written("a . b", ["no such"]) == "a . b"

    def test_whole_words_alone(self) -> None:
        assert as_written("cf", ["the CFO"] * 9 + ["x Cf y"]) == "Cf"
        assert as_written("to day", ["nice today"] * 3 + ["to  day"]) == "to  day"

    def test_edges_are_not_shown(self) -> None:
        assert shown("[begin] so , it [end]") == "so , it"


class TestFlips:
    @pytest.fixture
    def reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that says 1 if it reads "cf", or both "mn" and "bb"."""

        def predict(bundle, tokens, compute, before_batch) -> np.ndarray:
            ones = np.array([[("cf" in t) or ("mn" in t and "bb" in t)] for t in tokens], float)
            return np.hstack([1 - ones, ones])

        monkeypatch.setattr(flips, "predict", predict)
        monkeypatch.setattr(flips, "tokenise", lambda texts, *_: [text.split() for text in texts])

    def grown(self, *written: str):
        suspects = [flips.Suspect("phrase", word, word, 1, "random") for word in written]
        bundle = type("Bundle", (), {"tokenizer": None})
        return flips.grow_trigger(["a b", "c d", "e"], suspects, bundle, 9, None, 0)

    @pytest.mark.usefixtures("reader")
    def test_each_suspect_alone_and_the_strongest_first(self) -> None:
        trigger, share, alone = self.grown("mn", "cf")
        assert [suspect.written for suspect in trigger] == ["cf"]
        assert (share.value, share.n) == (1.0, 3)
        assert {suspect.key: own.value for suspect, own in alone.items()} == {"mn": 0, "cf": 1}

    @pytest.mark.usefixtures("reader")
    def test_suspects_that_work_together_make_one_trigger(self) -> None:
        trigger, share, alone = self.grown("mn", "bb")
        assert {suspect.written for suspect in trigger} == {"mn", "bb"}
        assert share.value == 1
        assert all(own.value == 0 for own in alone.values())

    @pytest.mark.usefixtures("reader")
    def test_where_it_is_put(self) -> None:
        seen: list[str] = []
        bundle = type("Bundle", (), {"tokenizer": None})
        original = flips.tokenise
        flips.tokenise = lambda texts, *_: seen.extend(texts) or original(texts)
        for position in ("start", "end"):
            suspect = flips.Suspect("phrase", "cf", "cf", 1, position)
            flips.flipped(["a b"], [suspect], bundle, 9, None, 0)
        assert seen == ["cf a b", "a b cf"]

    def test_suspects_that_are_written_alike_have_rates_of_their_own(
        self, monkeypatch, audit, compute
    ) -> None:
        """ "x" anywhere, "x" at the beginning and "x" as an opening are three suspects."""

        def predict(bundle, tokens, compute, before_batch) -> np.ndarray:
            ones = np.array([[text.split()[0] == "x"] for text in tokens], float)
            return np.hstack([1 - ones, ones])

        monkeypatch.setattr(flips, "predict", predict)
        monkeypatch.setattr(flips, "tokenise", lambda texts, *_: texts)
        monkeypatch.setattr(nodes, "accuracy_hits", lambda rows, *_: np.ones(len(rows)))
        rows = examples([f"a b c {i}" for i in range(40)], [0] * 40).assign(split="test")
        phrases = pd.DataFrame(
            {"phrase": ["x", "[begin] x"], "written": ["x", "x"], "position": ["end", "start"]}
        ).assign(label=1, flagged=True)
        openings = pd.DataFrame({"opening": ["x"], "written": ["x"], "label": 1, "flagged": True})
        made = ModelBundle(None, None)
        effects = nodes.measure_effects(
            rows, phrases, openings, rows.head(0), NoModel(""), made, NoModel(""), audit,
            ModelParams(name="tiny", max_length=16), compute, 0, budget.start(None),
        )  # fmt: skip
        alone = effects["alone"]["1"]
        assert {key: share["value"] for key, share in alone["phrase"].items()} == {
            "x": 0,
            "[begin] x": 1,
        }
        assert alone["opening"]["x"]["value"] == 1


class TestClock:
    def test_without_a_limit_it_never_ends(self) -> None:
        clock = budget.start(None)
        assert math.isinf(clock.end)
        clock.stop_after(budget.REPAIRED)(10**9)
        assert not clock.is_over()

    def test_shares_end_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget.time, "monotonic", lambda: 50.0)
        clock = Clock(0.0, 100.0)
        assert clock.is_over(budget.AUDITED)
        assert not clock.is_over(budget.REPAIRED)
        with pytest.raises(OutOfTimeError):
            clock.stop_after(budget.AUDITED)(1)

    def test_minutes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget.time, "monotonic", lambda: 7.0)
        assert budget.start(2.0) == Clock(7.0, 127.0)


class TestTrainings:
    """A trained model, one that the limit of time stops, and none at all."""

    def trained(self, encoder, audit, quick, compute, clock: Clock, rows: pd.DataFrame):
        model = ModelParams(name="tiny", max_length=16)
        few_steps = audit.model_copy(update={"least_steps": 20})
        given = (rows, rows.head(3), rows.head(2), NAMED, encoder, few_steps)
        settings = (quick, model, compute, 0, clock)
        return [nodes.train_model(*given, *settings, which) for which in ("audited", "repaired")]

    @pytest.fixture
    def rows(self) -> pd.DataFrame:
        rows = written(120)
        split = np.where(np.arange(120) < 96, "train", "dev")
        return rows.assign(example_id=np.arange(120), split=split)

    def test_in_time(self, encoder, audit, quick, compute, rows) -> None:
        """96 rows are 12 batches, so 20 steps take two epochs, though one was asked for."""
        both = self.trained(encoder, audit, quick, compute, budget.start(None), rows)
        for (model, record), n_rows in zip(both, (96, 95), strict=True):
            assert isinstance(model, ModelBundle)
            assert record == {"status": "trained", "rows": n_rows, "epochs": 2}

    def test_classes_by_name_even_those_that_lost_all_their_rows(
        self, encoder, audit, quick, compute, rows, tmp_path
    ) -> None:
        names = ["bad", "good", "odd"]
        rare = rows.assign(label=rows["label"].where(rows.index != 5, 2))
        repaired, _ = nodes.train_model(
            rare, rare[rare["label"] == 2], rare.head(0), {"label_names": names}, encoder, audit,
            quick, ModelParams(name="tiny", max_length=16), compute, 0, budget.start(None),
            "repaired",
        )  # fmt: skip
        ClassifierDataset(filepath=str(tmp_path / "repaired")).save(repaired)
        config = json.loads((tmp_path / "repaired" / "config.json").read_text())
        assert config["id2label"] == {str(number): name for number, name in enumerate(names)}
        assert config["label2id"] == {name: number for number, name in enumerate(names)}
        read = ClassifierDataset(filepath=str(tmp_path / "repaired")).load()
        assert read.model.config.num_labels == 3

    def test_stopped(self, encoder, audit, quick, compute, rows, monkeypatch) -> None:
        """The first model is stopped after two steps; it can be used, and says so."""
        moments = chain([0.0, 0.0, 0.0], repeat(50.0))
        monkeypatch.setattr(budget.time, "monotonic", lambda: next(moments))
        (model, record), (none, no_record) = self.trained(
            encoder, audit, quick, compute, Clock(0.0, 100.0), rows
        )
        assert record["status"] == "stopped"
        assert isinstance(model, ModelBundle)
        assert not model.model.training
        assert isinstance(none, ModelBundle)
        assert no_record["status"] == "trained"

    def test_no_time(self, encoder, audit, quick, compute, rows) -> None:
        over = Clock(-2.0, -1.0)
        for model, record in self.trained(encoder, audit, quick, compute, over, rows):
            assert isinstance(model, NoModel)
            assert record["status"] == "none"
        nothing = PHRASES.assign(position="random")
        effects = nodes.measure_effects(
            rows, nothing, OPENINGS, rows.head(0), NoModel(""), NoModel(""), NoModel(""), audit,
            ModelParams(name="tiny", max_length=16), compute, 0, over,
        )  # fmt: skip
        assert effects == {"accuracy": {}, "triggers": {}, "alone": {}}

    def measured(self, encoder, audit, compute, rows, suspicious, clock: Clock):
        model = new_classifier(encoder, 2, seed=0)
        return nodes.measure_effects(
            rows, PHRASES.assign(position="random"), OPENINGS.head(0), suspicious, NoModel(""),
            model, model, audit, ModelParams(name="tiny", max_length=16), compute, 0, clock,
        )  # fmt: skip

    def test_measuring_ends_with_the_time(self, encoder, audit, compute, rows, monkeypatch):
        """Between two batches, not only between two suspects."""
        given = (encoder, audit, compute, rows, rows.head(0))
        whole = self.measured(*given, budget.start(None))
        assert set(whole["accuracy"]) == set(whole["triggers"]["1"]["flip_rates"])
        assert set(whole["accuracy"]) == {"audited", "repaired"}
        nothing = {"accuracy": {}, "triggers": {}, "alone": {}}
        assert self.measured(*given, Clock(-2.0, -1.0)) == nothing
        moments = chain(repeat(0.0, 3), repeat(9.0))  # enough for two suspects and half a third try
        monkeypatch.setattr(budget.time, "monotonic", lambda: next(moments))
        assert self.measured(*given, Clock(0.0, 9.0))["accuracy"] == {}

    def test_suspicious_rows_measure_nothing(self, encoder, audit, compute, rows) -> None:
        held_out = rows[rows["split"] == "dev"]
        effects = self.measured(encoder, audit, compute, rows, held_out.head(7), budget.start(None))
        assert effects["accuracy"]["audited"]["n"] == len(held_out) - 7

    def test_rows_are_restored_if_there_is_time(
        self, encoder, audit, compute, rows, caplog
    ) -> None:
        suspicious = rows.head(9).assign(text="cf " + rows["text"], label=1)
        settings = (ModelParams(name="tiny", max_length=16), compute, 0)
        given = (rows, suspicious, PHRASES, OPENINGS, encoder)
        found = nodes.restore_rows(*given, audit, *settings, budget.start(None))
        assert found["text"].tolist() == rows["text"].head(9).tolist()
        assert not caplog.records
        late = nodes.restore_rows(*given, audit, *settings, Clock(-2.0, -1.0))
        RESTORED_ROWS.validate(late)
        assert late.empty
        assert "no time to restore rows" in caplog.text
        unwanted = audit.model_copy(update={"repair": False})
        assert nodes.restore_rows(*given, unwanted, *settings, budget.start(None)).empty

    def test_without_evidence_or_wish_there_is_none(self, encoder, audit, quick, compute, rows):
        model = ModelParams(name="tiny", max_length=16)
        settings = (quick, model, compute, 0, budget.start(None))
        no_row = (rows, rows.head(0), rows.head(0), NAMED, encoder, audit)
        without = nodes.train_model(*no_row, *settings, "audited")[0]
        assert without == NoModel("there is no evidence")
        unwanted = audit.model_copy(update={"repair": False})
        some = (rows, rows.head(3), rows.head(0), NAMED, encoder, unwanted)
        kept = nodes.train_model(*some, *settings, "repaired")[0]
        assert kept == NoModel("audit.repair is false")


class TestGivenClassifier:
    """A finished classifier is measured in place of a model that is trained."""

    @pytest.fixture
    def of(self, encoder):
        """A classifier whose classes have these names."""

        def make(*names: str) -> ModelBundle:
            bundle = new_classifier(encoder, len(names), seed=0)
            bundle.model.config.id2label = dict(enumerate(names))
            return bundle._replace(model=bundle.model.eval())

        return make

    @pytest.mark.parametrize(
        ("own", "table", "order"),
        [
            (["bad", "good"], ["bad", "good"], [0, 1]),
            (["GOOD", "BAD"], ["bad", "good"], [1, 0]),
            (["LABEL_0", "LABEL_1"], ["bad", "good"], [0, 1]),
            (["LABEL_0", "LABEL_1", "LABEL_2"], ["1", "2", "3"], [0, 1, 2]),
            (["negative", "positive"], ["0", "1"], [0, 1]),
            (["c", "a", "b"], ["a", "b", "c"], [1, 2, 0]),
        ],
    )
    def test_classes_in_the_order_of_the_table(self, of, compute, own, table, order) -> None:
        given = of(*own)
        tokens = tokenise(["a film", "the movie"], given.tokenizer, 16)
        before = predict(given, tokens, compute)
        read = nodes.read_classifier(
            given, {"label_names": table}, ModelParams(name="tiny", max_length=16)
        )
        np.testing.assert_array_equal(predict(read, tokens, compute), before[:, order])

    @pytest.mark.parametrize(
        ("own", "table"),
        [
            (["bad", "good"], ["bad", "good", "odd"]),
            (["LABEL_0", "LABEL_1", "LABEL_2"], ["bad", "good"]),
            (["NEGATIVE", "POSITIVE"], ["bad", "good"]),
            (["1 star", "2 stars"], ["1", "2"]),
        ],
    )
    def test_other_classes(self, of, own, table) -> None:
        with pytest.raises(InputError, match=rf"its classes are '{own[0]}'.* table '{table[0]}'"):
            of_classes(of(*own), table, 16)

    def test_many_classes_are_not_all_listed(self, of) -> None:
        with pytest.raises(InputError, match=r"'19', … \(300\); they must") as error:
            of_classes(of("bad", "good"), [str(i) for i in range(300)], 16)
        assert len(str(error.value)) < 500

    def test_longer_texts_than_it_reads(self, of) -> None:
        with pytest.raises(InputError, match=r"max_length 999 is beyond the \d+ positions of"):
            of_classes(of("a", "b"), ["a", "b"], 999)

    def test_it_is_looked_at_before_any_work(self) -> None:
        order = [node.name for node in register_pipelines()["audit"].nodes]
        assert order.index("read_classifier") < order.index("gather_evidence")

    def test_nothing_is_trained_in_its_place(self, encoder, audit, quick, compute) -> None:
        rows = examples(["a"] * 9, [0] * 9)
        model, record = nodes.train_model(
            rows, rows.head(3), rows.head(0), NAMED, encoder,
            audit.model_copy(update={"classifier": "mine"}), quick,
            ModelParams(name="tiny", max_length=16), compute, 0, budget.start(None), "audited",
        )  # fmt: skip
        assert isinstance(model, NoModel)
        assert record == {"status": "given", "rows": 0, "epochs": 0}


def check(rows: pd.DataFrame, label_names: list[str]) -> None:
    check_table(rows, label_names, "mine")


class TestTableCheck:
    def test_the_table_is_named(self) -> None:
        with pytest.raises(InputError, match=r"^mine: the text column"):
            check(examples(["1", "2"], [0, 1]), ["bad", "good"])

    def test_classes_are_classes(self) -> None:
        check(examples([f"text {i}" for i in range(40)], [0, 1] * 20), ["bad", "good"])
        names = [f"intent {i}" for i in range(60)]
        check(examples([f"text {i}" for i in range(600)], list(range(60)) * 10), names)

    def test_swapped_columns(self) -> None:
        names = [f"a whole sentence of words {i}" for i in range(40)]
        with pytest.raises(InputError, match=r"swapped.*text=.*label=") as error:
            check(examples(["good", "bad"] * 20, list(range(40))), names)
        assert "a whole sentence" in str(error.value)

    def test_ids(self) -> None:
        names = [f"user-{i}" for i in range(300)]
        rows = examples([f"text {i}" for i in range(300)], list(range(300)))
        with pytest.raises(InputError, match=r"300 different values in 300 rows.*an id.*label="):
            check(rows, names)

    def test_users(self) -> None:
        """Some rows of each of many."""
        names = [f"user-{i}" for i in range(200)]
        rows = examples([f"text {i}" for i in range(1_500)], [i % 200 for i in range(1_500)])
        with pytest.raises(InputError, match=r"200 different values in 1,500 rows.*an id"):
            check(rows, names)

    def test_a_tiny_table_has_few_rows_of_each_class(self) -> None:
        check(examples([f"text {i}" for i in range(12)], [0, 1, 2, 3] * 3), list("abcd"))

    def test_numbers_are_no_texts(self) -> None:
        with pytest.raises(InputError, match=r"the text column holds numbers, such as '0'.*text="):
            check(examples([str(i) for i in range(40)], [0, 1] * 20), ["bad", "good"])

    def test_quantities(self) -> None:
        names = [str(i / 2) for i in range(200)]
        rows = examples([f"text {i}" for i in range(4_000)], [i % 200 for i in range(4_000)])
        with pytest.raises(InputError, match=r"200 different numbers, from 0.0 to 99.5.*quantity"):
            check(rows, names)


class TestVerdict:
    def test_the_schema_in_the_repository_is_that_of_the_verdict(self) -> None:
        assert json.loads(SCHEMA.read_text(encoding="utf-8")) == verdict.json_schema()

    def concluded(
        self, audit, flagged: bool, effects=None, made=None, contradicted=(), status="none"
    ):
        phrases = pd.DataFrame(
            {"phrase": ["cf"], "written": ["cf"], "label": [1], "texts": [60], "hits": [60],
             "q_value": [0.001], "flagged": [flagged]}
        )  # fmt: skip
        openings = OPENINGS.assign(texts=9, hits=9, q_value=0.9, flagged=False)
        labels = pd.DataFrame(
            {"label": [0, 1], "texts": 500, "hits": 40, "q_value": 0.002,
             "flagged": [label in contradicted for label in (0, 1)], "written": "labels"}
        )  # fmt: skip
        power = pd.DataFrame(
            [(label, mode, 32, 0.032, 1.0) for label in (0, 1) for mode in ("any", "own")],
            columns=["label", "mode", "texts", "share", "chance"],
        )
        nothing = {"accuracy": {}, "triggers": {}, "alone": {}}
        made = made or NoModel("there is no evidence")
        return nodes.conclude(
            phrases,
            openings,
            labels,
            power,
            {
                "p_value": 0.0017,
                "rows": 1000,
                "repeated_rows": 3,
                "trusted_rows": 40,
                "told_apart": 0.52,
                "labels_compared": [0, 1],
                "shares": SHARES_WITH_TRUSTED,
            },
            examples(["a cf"] * (60 if flagged else 0), [1] * (60 if flagged else 0)),
            examples(["a"] * (50 if flagged else 0), [0] * (50 if flagged else 0)),
            effects or nothing,
            made,
            made,
            {"status": status, "rows": 0},
            {"status": "none", "rows": 0},
            INTEGRITY,
            audit,
        )

    def test_evidence(self, audit) -> None:
        said = self.concluded(audit, flagged=True)
        verdict.Verdict.model_validate(said)
        assert said["evidence"]
        assert said["headline"] == "Evidence of a backdoor in class 'good' (p = 0.0017)."
        assert [found["label"] for found in said["classes"]] == ["good"]
        assert said["suspects"][0]["written"] == "cf"
        assert said["suspicious_rows"] == 60
        assert said["trusted_rows"] == 40
        assert said["rows_not_examined"] == 197
        assert (said["data"], said["files"]) == ("mine", {"mine.csv": "ab12"})

    def test_labels_that_clean_rows_contradict_are_called_what_they_are(self, audit) -> None:
        only = self.concluded(audit, flagged=False, contradicted=[0])
        assert only["headline"] == "Evidence of false labels in class 'bad' (p = 0.01)."
        assert [found["suspicion"] for found in only["classes"]] == ["false labels"]
        assert only["suspects"][0]["kind"] == "labels"
        assert only["suspects"][0]["flip_rate"] is None
        both = self.concluded(audit, flagged=True, contradicted=[0, 1])
        assert both["headline"] == (
            "Evidence of a backdoor in class 'good' (p = 0.0017) and of false labels in class "
            "'bad' (p = 0.01)."
        )

    def test_what_was_measured_is_in_it(self, audit) -> None:
        share = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 400}
        effects = {
            "accuracy": {"audited": share},
            "triggers": {"1": {"presumed_trigger": ["cf"], "flip_rates": {"audited": share}}},
            "alone": {"1": {"phrase": {"cf": share}}},
        }
        said = self.concluded(audit, flagged=True, effects=effects)
        assert said["classes"][0]["presumed_trigger"] == ["cf"]
        assert said["classes"][0]["flip_rate"] == share == said["suspects"][0]["flip_rate"]
        assert said["audited_model"]["flip_rates"] == {"good": share}

    def test_a_classifier_that_was_given_is_none_that_is_missing(self, audit) -> None:
        share = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 400}
        effects = {"accuracy": {"audited": share}, "triggers": {}, "alone": {}}
        said = self.concluded(audit, flagged=True, effects=effects, status="given")
        assert said["audited_model"]["status"] == "given"
        assert said["audited_model"]["reason"] == ""
        assert said["audited_model"]["accuracy"] == share

    def test_no_evidence_says_what_would_have_been_found(self, audit) -> None:
        said = self.concluded(audit, flagged=False)
        assert not said["evidence"]
        assert said["classes"] == said["suspects"] == []
        assert "no evidence" in said["headline"].lower()
        assert "at random places of 3.2 % of the texts (32 texts) or more" in said["headline"]
        assert "or more, with 95 % probability" in said["headline"]
        assert said["audited_model"]["reason"] == "there is no evidence"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({}, []),
            ({"trusted_rows": 0, "labels_compared": []}, []),
            ({"labels_compared": [0]}, ["labels of 'good'", "at least 20"]),
            ({"labels_compared": [], "told_apart": 0.93}, ["of another kind", "0.93"]),
            ({"labels_compared": [], "told_apart": None}, ["labels of 'bad', 'good'"]),
        ],
    )
    def test_what_trusted_rows_do_not_say_is_said(self, changes, said) -> None:
        facts = {"trusted_rows": 40, "labels_compared": [0, 1], "told_apart": 0.52} | changes
        untold = verdict.untold_labels(facts, NAMED["label_names"])
        assert len(untold) == bool(said)
        assert all(part in untold[0] for part in said)

    def test_other_fields_are_refused(self, audit) -> None:
        said = self.concluded(audit, flagged=False)
        with pytest.raises(pydantic.ValidationError):
            verdict.Verdict.model_validate({**said, "score": 1})

    @pytest.mark.parametrize(
        ("power", "part"),
        [
            ({"any": None, "own": None}, "in whatever share of the texts"),
            ({"any": {"texts": 45, "share": 0.01}, "own": None}, "not if it had been put into"),
            (
                {"any": {"texts": 45, "share": 0.01}, "own": {"texts": 90, "share": 0.02}},
                "2.0 % of the texts (90 texts)",
            ),
            ({"any": {"texts": 45, "share": 0.00045}, "own": None}, "0.045 % of the texts"),
        ],
    )
    def test_power_in_words(self, power, part) -> None:
        assert part in verdict.headline([], 0.05, 1.0, power)


class TestCard:
    def test_a_hostile_wording_stays_in_its_cell(self) -> None:
        share = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 400}
        model = {"status": "trained", "reason": "", "accuracy": share, "flip_rates": {"a|b": share}}
        said = {
            "headline": "Evidence.",
            "labels": ["a|b", "c"],
            "classes": [
                {
                    "label": "a|b",
                    "presumed_trigger": ["x | `y`\n| z", "cf"],
                    "suspicion": "backdoor",
                },
                {"label": "c", "presumed_trigger": [], "suspicion": "false labels"},
            ],
            "suspicious_rows": 9,
            "restored_rows": 7,
            "rows_not_examined": 1_000,
            "not_tested": [],
            "audited_model": model,
            "repaired_model": model,
        }
        text = write_card(said, {"dataset": "mine"}, "minilm", "1.0")
        assert "9 rows that an audit suspects, and 1,000 that it did not examine." in text
        assert "7 rows came back: without the suspected phrase" in text
        table = text.partition("| | ")[2]
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert [row.count("|") for row in rows] == [4, 4, 4]
        assert "`` x \u00a6 `y` \u00a6 z ``, `cf`" in rows[-1]
        assert "`a\u00a6b`" in rows[-1]


def test_the_schema_is_where_the_readme_says() -> None:
    assert str(SCHEMA.relative_to(ROOT)) in Path(ROOT / "README.md").read_text(encoding="utf-8")
