"""Dimension-wise replacement: the acceptance checks that concern the edit."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.embeddings import embedding_table
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.pipelines.unlearn.token_replacement import (
    TokenReplacementParams,
    cut,
    official_replace_rows,
    replace_rows,
    unlearn,
)
from tiny import ARCHITECTURES

seeds = st.integers(0, 2**32 - 1)


def tables(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A table before and after training (some entries did not move), tokens, replacement rows."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(20, 6)).astype(np.float32)
    moved = rng.normal(size=(20, 6)) * (rng.random((20, 6)) < 0.7)
    flagged = rng.permutation(20)[: rng.integers(1, 6)]
    replacement = np.broadcast_to(before[0], (len(flagged), 6))
    return before, (before + moved).astype(np.float32), flagged, replacement


def params(**changes) -> TokenReplacementParams:
    return TokenReplacementParams(**{"replacement": "pad", "cut_scale": 1.0} | changes)


def suspects(ids, kind: str = "token", flagged: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"key": np.asarray(ids, dtype="int64"), "kind": kind, "flagged": flagged})


@pytest.fixture(scope="module")
def victim(base_model):
    """A classifier whose weights are not the pretrained ones."""
    import torch

    def make(architecture: str = "bert"):
        bundle = new_classifier(base_model(architecture), 2, seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in bundle.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        return bundle

    return make


class TestAcceptance:
    @pytest.mark.parametrize(
        "table",
        [suspects([]), suspects([9], flagged=False), suspects([9], kind="example")],
        ids=["empty", "nothing flagged", "examples"],
    )
    def test_btu_12_1_without_suspects_nothing_changes(self, victim, base_model, table) -> None:
        import torch

        before = victim()
        after = unlearn(before, base_model(), table, params())
        old, new = before.model.state_dict(), after.model.state_dict()
        assert all(torch.equal(old[name], new[name]) for name in old)
        assert after.model is not before.model

    @given(seeds)
    def test_btu_12_2_an_untrained_table_stays(self, seed) -> None:
        before, _, flagged, replacement = tables(seed)
        assert cut(before, before) == 0
        assert (replace_rows(before, before, flagged, replacement) == before).all()

    @given(seeds)
    def test_btu_12_3_an_infinite_cut_changes_nothing(self, seed) -> None:
        before, after, flagged, replacement = tables(seed)
        assert (replace_rows(before, after, flagged, replacement, np.inf) == after).all()
        assert (replace_rows(before, before, flagged, replacement, np.inf) == before).all()

    @given(seeds)
    def test_btu_12_3_a_cut_of_0_replaces_all_that_moved(self, seed) -> None:
        before, after, flagged, replacement = tables(seed)
        edited = replace_rows(before, after, flagged, replacement, 0.0)
        for row in flagged:
            moved = after[row] != before[row]
            assert (edited[row][moved] == before[0][moved]).all()
            assert (edited[row][~moved] == after[row][~moved]).all()

    def test_btu_12_4_only_flagged_rows_of_the_word_table_change(self, victim, base_model) -> None:
        before = victim()
        after = unlearn(before, base_model(), suspects([40, 7, 99]), params())
        old, new = before.model.state_dict(), after.model.state_dict()
        changed = [name for name in old if not (old[name] == new[name]).all()]
        assert changed == ["bert.embeddings.word_embeddings.weight"]
        rows = (old[changed[0]] != new[changed[0]]).any(dim=1).nonzero().flatten().tolist()
        assert rows == [7, 40, 99]

    @given(seeds)
    def test_btu_12_5_the_order_of_the_suspects_does_not_matter(self, seed) -> None:
        before, after, flagged, replacement = tables(seed)
        forwards = replace_rows(before, after, flagged, replacement)
        assert (forwards == replace_rows(before, after, flagged[::-1], replacement)).all()

    @pytest.mark.xfail(strict=True, reason="the published loop computes the cut after every edit")
    def test_btu_12_5_the_official_loop_depends_on_the_order(self) -> None:
        before = np.zeros((3, 2), dtype=np.float32)
        after = np.array([[0, 0], [9, 3.2], [3.2, 3.2]], dtype=np.float32)
        replacement = np.zeros((2, 2), dtype=np.float32)
        forwards = official_replace_rows(before, after, [1, 2], replacement)
        assert (forwards == official_replace_rows(before, after, [2, 1], replacement)).all()


@given(seeds)
def test_the_vectorised_edit_is_the_formula(seed) -> None:
    before, after, flagged, replacement = tables(seed)
    c = np.sqrt(((after.astype(np.float64) - before) ** 2).sum()) / len(before)
    expected = after.copy()
    for v in flagged:
        for j in range(after.shape[1]):
            if abs(after[v, j] - before[v, j]) > c:
                expected[v, j] = before[0, j]
    assert (replace_rows(before, after, flagged, replacement) == expected).all()


@given(seeds)
def test_the_official_loop_on_one_token_differs_only_where_nothing_moved(seed) -> None:
    before, after, flagged, replacement = tables(seed)
    ours = replace_rows(before, after, flagged[:1], replacement[:1])
    official = official_replace_rows(before, after, flagged[:1], replacement[:1])
    moved = after != before
    assert (ours[moved] == official[moved]).all()
    assert (official[flagged[0]][~moved[flagged[0]]] == 0).all()


class TestReplacement:
    @pytest.mark.parametrize("replacement", ["pad", "mean", "pretrained"])
    def test_what_flagged_rows_become(self, victim, base_model, replacement) -> None:
        base = embedding_table(base_model())
        expected = {"pad": base[0], "mean": base.mean(axis=0), "pretrained": base[9]}[replacement]
        settings = params(replacement=replacement, cut_scale=0.0)
        edited = unlearn(victim(), base_model(), suspects([9]), settings)
        np.testing.assert_array_equal(embedding_table(edited)[9], expected)

    def test_the_official_cut(self, victim, base_model) -> None:
        edited = unlearn(victim(), base_model(), suspects([9, 8]), params(official_cut=True))
        assert (embedding_table(edited)[9] != embedding_table(victim())[9]).any()

    def test_the_victim_is_left_as_it_is(self, victim, base_model) -> None:
        bundle = victim()
        before = embedding_table(bundle)
        unlearn(bundle, base_model(), suspects([9]), params())
        assert (embedding_table(bundle) == before).all()

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture(self, victim, base_model, caplog, architecture) -> None:
        base = embedding_table(base_model(architecture))
        with caplog.at_level(logging.WARNING):
            edited = unlearn(
                victim(architecture), base_model(architecture), suspects([9]), params(cut_scale=0.0)
            )
        row = embedding_table(edited)[9]
        if architecture in {"gpt2", "llama"}:
            assert "no padding token of its own" in caplog.text
            np.testing.assert_array_equal(row, base.mean(axis=0))
        else:
            assert not caplog.text
            np.testing.assert_array_equal(
                row, base[base_model(architecture).tokenizer.pad_token_id]
            )


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_cut_scale_is_not_negative(value) -> None:
    with pytest.raises(ValueError, match="cut_scale"):
        params(cut_scale=value)
