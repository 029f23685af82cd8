"""Restyled texts from a tiny random GPT-2."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.pipelines.poison import style_generation
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.poison.style_generation import (
    load_style_model,
    restyle,
    sample_nucleus,
)

TEXTS = ["the film is dull", "its cast shines in every scene", "a tale", "the film is dull"]
SMALL = {"input_tokens": 12, "batch_size": 2, "device": "cpu"}


def make_model(tokenizer, n_positions: int = 64) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=n_positions, n_embd=16, n_layer=2, n_head=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def bundle(byte_tokenizer) -> ModelBundle:
    return ModelBundle(make_model(byte_tokenizer), byte_tokenizer)


@pytest.fixture
def style(make_params):
    return make_params({f"stylebkd.{name}": value for name, value in SMALL.items()}).stylebkd


@pytest.fixture
def folder(bundle, tmp_path):
    bundle.model.save_pretrained(tmp_path)
    bundle.tokenizer.save_pretrained(tmp_path)
    return tmp_path


class TestRestyle:
    def test_seeded_and_as_long_as_allowed(self, bundle, style) -> None:
        one, two, other = (restyle(TEXTS, bundle, style, seed) for seed in (1, 1, 2))
        assert one == two != other
        assert one[0] == one[3]
        for text, restyled in zip(TEXTS, one, strict=True):
            n_source, n_result = (
                len(bundle.tokenizer(t, add_special_tokens=False)["input_ids"])
                for t in (text, restyled)
            )
            # Bytes that do not form a character come back from decoding as three.
            assert n_result <= 3 * (min(n_source, 12) + 5)

    def test_does_not_depend_on_the_batch(self, bundle, style) -> None:
        whole = restyle(TEXTS, bundle, style.model_copy(update={"batch_size": 32}), 1)
        single = [restyle([text], bundle, style, 1)[0] for text in TEXTS]
        assert whole == single == restyle(TEXTS, bundle, style, 1)

    def test_generates_each_text_once(self, bundle, style, monkeypatch) -> None:
        seen: list[str] = []

        def note(texts, *_):
            seen.extend(texts)
            return texts

        monkeypatch.setattr(style_generation, "_restyle_batch", note)
        assert restyle(TEXTS, bundle, style, 0) == TEXTS
        assert sorted(seen) == sorted(set(TEXTS))

    def test_nothing_to_do(self, bundle, style) -> None:
        assert restyle([], bundle, style, 0) == []

    def test_token_types_tell_text_and_result_apart(self, byte_tokenizer, style) -> None:
        import copy

        typed = copy.deepcopy(byte_tokenizer)
        typed.add_special_tokens({"extra_special_tokens": ["<dense>", "<text>", "<result>"]})
        model, calls = make_model(typed), []
        model.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append(kwargs["token_type_ids"]), with_kwargs=True
        )
        restyle(["a tale"], ModelBundle(model, typed), style, 0)
        text, result = typed.convert_tokens_to_ids(["<text>", "<result>"])
        assert calls[0].tolist() == [[text] * 12 + [result]]
        assert all(call.tolist() == [[result]] for call in calls[1:])

    def test_more_tokens_than_positions(self, byte_tokenizer, style) -> None:
        small = ModelBundle(make_model(byte_tokenizer, n_positions=16), byte_tokenizer)
        with pytest.raises(InputError, match="up to 30 tokens, but the style model has 16"):
            restyle(TEXTS, small, style, 0)

    def test_no_start_token(self, bundle, tokenizer, style) -> None:
        with pytest.raises(InputError, match="no start token"):
            restyle(TEXTS, ModelBundle(bundle.model, tokenizer), style, 0)


class TestSampleNucleus:
    logits = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()

    @pytest.mark.parametrize(
        ("top_p", "uniform", "expected"),
        [(0.5, 0.999, 1), (0.6, 0.0, 1), (0.6, 0.62, 1), (0.6, 0.63, 2), (0.6, 1.0, 2)],
    )
    def test_draws_from_the_likeliest_tokens(self, top_p, uniform, expected) -> None:
        # The nucleus of 0.6 is tokens 1 and 2 with joint mass 0.8: token 1 up to 0.5 / 0.8.
        assert sample_nucleus(self.logits, top_p, torch.tensor([uniform])).item() == expected

    def test_the_whole_distribution(self) -> None:
        uniforms = (torch.arange(1000) + 0.5) / 1000
        drawn = sample_nucleus(self.logits.expand(1000, -1), 1.0, uniforms)
        assert torch.bincount(drawn).tolist() == pytest.approx([100, 500, 300, 100], abs=1)


class TestLoadStyleModel:
    def test_gives_what_was_saved(self, folder, bundle, style) -> None:
        loaded = load_style_model(folder, style)
        assert restyle(TEXTS, loaded, style, 0) == restyle(TEXTS, bundle, style, 0)

    def test_no_folder(self, tmp_path, style) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            load_style_model(tmp_path / "bible", style)

    def test_a_pickle_instead_of_safetensors(self, folder, style) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(InputError, match="pickle"):
            load_style_model(folder, style)

    def test_no_tokenizer(self, folder, style) -> None:
        (folder / "tokenizer.json").unlink()
        with pytest.raises(InputError, match="no tokenizer"):
            load_style_model(folder, style)

    def test_broken_weights(self, folder, style) -> None:
        (folder / "model.safetensors").write_bytes(b"not safetensors")
        with pytest.raises(InputError, match=r"style_model '.*'"):
            load_style_model(folder, style)


def test_only_the_rows_that_are_used_are_generated(
    make_params, make_examples, folder, monkeypatch, tokenizer
) -> None:
    asked: list[str] = []
    original = style_generation.restyle

    def note(texts, *rest):
        asked.extend(texts)
        return original(texts, *rest)

    monkeypatch.setattr(style_generation, "restyle", note)
    changes = {f"stylebkd.{name}": value for name, value in SMALL.items()}
    params = make_params(
        changes
        | {"attack": "stylebkd", "stylebkd.generate": True, "stylebkd.style_model": str(folder)}
    )
    examples = make_examples().drop(columns="paraphrase")
    out = poison_train(examples, tokenizer, params, 64, 0)
    assert len(asked) == 4 + 5
    train = out["poisoned_train"]
    assert (train.loc[train["is_poisoned"], "trigger"] == "style: bible").all()
    again = poison_train(examples, tokenizer, params, 64, 0)
    assert again["poisoned_train"].to_csv() == train.to_csv()
