"""Models as untrusted data: checked before they are loaded, one clear error each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.loading import (
    load_classifier,
    load_pretrained,
    load_tokenizer,
    new_classifier,
    positions,
    with_padding,
)
from tiny import ARCHITECTURES, MAX_LENGTH


def params(name: str | Path, max_length: int = MAX_LENGTH) -> ModelParams:
    return ModelParams(name=str(name), max_length=max_length)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestBadModels:
    @pytest.mark.parametrize(
        "changes", [{"hidden_size": "abc"}, {"num_attention_heads": 0}, {"pad_token_id": 10**6}]
    )
    def test_settings_that_make_no_model(self, copied, changes) -> None:
        folder = copied()
        edit_json(folder / "config.json", **changes)
        with pytest.raises(InputError, match="model '"):
            load_pretrained(params(folder))

    def test_a_model_of_images(self, copied) -> None:
        from transformers import ViTConfig, ViTModel

        folder = copied()
        tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        ViTModel(ViTConfig(**tiny, intermediate_size=32)).save_pretrained(folder)
        with pytest.raises(InputError, match=r"no text model|cannot be read"):
            load_pretrained(params(folder))

    def test_unknown_architecture(self, copied) -> None:
        folder = copied()
        edit_json(folder / "config.json", model_type="never_heard_of")
        with pytest.raises(InputError, match="cannot be read"):
            load_pretrained(params(folder))

    def test_code_of_its_own_is_refused(self, copied) -> None:
        folder = copied()
        edit_json(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        with pytest.raises(InputError, match=r"code of its own.*never run"):
            load_pretrained(params(folder))

    def test_code_of_the_tokenizer_is_not_run(self, copied) -> None:
        folder = copied()
        edit_json(
            folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}
        )
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        try:
            load_pretrained(params(folder))
        except InputError as error:
            assert "tokenizer" in str(error)

    def test_broken_tokenizer(self, copied) -> None:
        folder = copied()
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(InputError, match="the tokenizer cannot be read"):
            load_pretrained(params(folder))

    def test_a_pickle_is_never_opened(self, copied) -> None:
        folder = copied()
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        with pytest.raises(InputError, match=r"only as a pickle.*model\.safetensors"):
            load_pretrained(params(folder))

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_truncated_weights(self, copied, share) -> None:
        folder = copied()
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: int(share * len(weights))])
        with pytest.raises(InputError, match="the model cannot be read"):
            load_pretrained(params(folder))

    def test_weights_of_another_size(self, copied) -> None:
        folder = copied()
        edit_json(folder / "config.json", intermediate_size=128)
        with pytest.raises(InputError, match="model '"):
            load_pretrained(params(folder))

    def test_weights_of_another_architecture(self, copied, model_folder) -> None:
        folder = copied()
        shutil.copy(model_folder("gpt2") / "model.safetensors", folder)
        with pytest.raises(InputError, match="lacks most of the parameters"):
            load_pretrained(params(folder))

    def test_a_vocabulary_that_does_not_fit(self, copied, model_folder) -> None:
        folder = copied()
        for path in model_folder("roberta").glob("tokenizer*"):
            shutil.copy(path, folder)
        with pytest.raises(
            InputError, match=r"tokenizer goes up to id \d+.*do not belong together"
        ):
            load_pretrained(params(folder))

    @pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
    def test_texts_longer_than_the_positions(self, model_params, architecture) -> None:
        too_long = model_params(architecture).model_copy(update={"max_length": MAX_LENGTH + 1})
        with pytest.raises(InputError, match=rf"beyond the {MAX_LENGTH} positions.*lower it"):
            load_pretrained(too_long)

    def test_a_hub_id_without_network(self) -> None:
        with pytest.raises(InputError, match=r"neither a folder nor a packaged model.*the network"):
            load_pretrained(params("nobody/no-such-model"))

    def test_a_tokenizer_without_any_token_for_padding(self, base_model) -> None:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
        with pytest.raises(InputError, match="neither a padding, an end nor an unknown token"):
            with_padding(bare)

    def test_a_spoilt_classifier(self, copied) -> None:
        folder = copied()
        (folder / "model.safetensors").write_bytes(b"\x08")
        with pytest.raises(InputError, match="the model cannot be read"):
            load_classifier(folder)


class TestGoodModels:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture_loads_in_float32(self, base_model, architecture) -> None:
        import torch

        bundle = base_model(architecture)
        assert {p.dtype for p in bundle.model.parameters()} == {torch.float32}
        assert not bundle.model.training
        assert bundle.tokenizer.is_fast
        assert bundle.tokenizer.padding_side == "right"
        assert bundle.model.config.pad_token_id == bundle.tokenizer.pad_token_id is not None

    @pytest.mark.parametrize("architecture", ["gpt2", "llama"])
    def test_the_end_token_pads_where_there_is_no_padding_token(
        self, base_model, architecture
    ) -> None:
        tokenizer = base_model(architecture).tokenizer
        assert tokenizer.pad_token_id == tokenizer.eos_token_id

    def test_parameters_that_the_file_lacks_are_the_same_every_time(self, tmp_path) -> None:
        import torch
        from transformers import BertModel

        from tiny import tiny_model, word_tokenizer

        config = tiny_model("bert", word_tokenizer()).config
        BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
        word_tokenizer().save_pretrained(tmp_path)
        before = torch.get_rng_state()
        poolers = [load_pretrained(params(tmp_path)).model.pooler.dense.weight for _ in range(2)]
        assert torch.equal(*poolers)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_tokenizer_alone(self, model_params, base_model) -> None:
        assert load_tokenizer(model_params()).get_vocab() == base_model().tokenizer.get_vocab()

    def test_positions_leave_out_robertas_padding(self, base_model) -> None:
        limits = {name: positions(base_model(name).model) for name in ARCHITECTURES}
        assert set(limits.values()) == {MAX_LENGTH}


class TestNewClassifier:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_takes_over_the_encoder_and_leaves_it_as_it_is(self, base_model, architecture) -> None:
        import torch

        base = base_model(architecture)
        before = {name: value.clone() for name, value in base.model.state_dict().items()}
        model = new_classifier(base, n_classes=3, seed=0).model
        taken = model.base_model.state_dict()
        assert all(torch.equal(taken[name], before[name]) for name in taken)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        left = base.model.state_dict()
        assert all(torch.equal(left[name], before[name]) for name in before)
        assert model.config.num_labels == 3

    def test_the_head_is_drawn_from_the_seed(self, base_model) -> None:
        import torch

        state = torch.get_rng_state()
        first, again, other = (
            new_classifier(base_model(), 2, seed).model.classifier.weight for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)


def test_an_encoder_alone_is_no_classifier(model_folder) -> None:
    with pytest.raises(InputError, match=r"has no classifier\..* with its head\?"):
        load_classifier(model_folder("bert"))
