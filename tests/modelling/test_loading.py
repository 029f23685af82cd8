"""Models as untrusted data: checked before they are loaded, one clear error each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import (
    ModelParams,
    load_classifier,
    load_pretrained,
    load_tokenizer,
    model_digest,
    model_folder,
    new_classifier,
    packaged_file,
    positions,
    short_name,
    with_padding,
)
from tiny import ARCHITECTURES, MAX_LENGTH


def params(name: str | Path, max_length: int = MAX_LENGTH) -> ModelParams:
    return ModelParams(name=str(name), max_length=max_length)


@pytest.fixture
def copied(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model's folder that a test may spoil."""

    def copy(architecture: str = "bert") -> Path:
        return Path(shutil.copytree(model_folder(architecture), tmp_path / "model"))

    return copy


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestBadModels:
    def test_no_such_folder(self, tmp_path) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            load_pretrained(params(tmp_path / "nowhere"))

    def test_a_file_is_no_folder(self, copied) -> None:
        with pytest.raises(InputError, match="is a file; give the model's folder"):
            load_pretrained(params(copied() / "config.json"))

    def test_no_config(self, copied) -> None:
        folder = copied()
        (folder / "config.json").unlink()
        with pytest.raises(InputError, match=r"has no config\.json"):
            load_pretrained(params(folder))

    @pytest.mark.parametrize("text", ["{", "", "[]", "3", "\udcff"])
    def test_broken_config(self, copied, text) -> None:
        folder = copied()
        (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=r"config\.json (is not valid JSON|holds no settings)"):
            load_pretrained(params(folder))

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

    def test_no_tokenizer(self, copied) -> None:
        folder = copied()
        for path in folder.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(InputError, match=r"has no tokenizer.*save_pretrained"):
            load_pretrained(params(folder))

    def test_broken_tokenizer(self, copied) -> None:
        folder = copied()
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(InputError, match="the tokenizer cannot be read"):
            load_pretrained(params(folder))

    def test_no_weights(self, copied) -> None:
        folder = copied()
        (folder / "model.safetensors").unlink()
        with pytest.raises(InputError, match="has no weights"):
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

    @pytest.mark.parametrize("package", ["no-such-package", "numpy"])
    def test_a_packaged_model_that_is_not_installed(self, package) -> None:
        with pytest.raises(InputError, match=rf"'{package}'.*make install"):
            packaged_file(package, "no/such/model")

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


class TestNames:
    def test_the_packaged_model_is_a_folder(self) -> None:
        try:
            folder = model_folder("minilm")
        except InputError:
            pytest.skip("the packaged encoder is not installed: `make install`")
        assert (folder / "config.json").is_file()

    @pytest.mark.parametrize("name", ["bert-base-uncased", "owner/model"])
    def test_a_hub_id_is_no_folder(self, name) -> None:
        assert model_folder(name) is None

    @pytest.mark.parametrize("name", ["/no/where", "~/nowhere", "./nowhere", "a/b/c"])
    def test_what_looks_like_a_path_is_one(self, name) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            model_folder(name)

    def test_short_names(self) -> None:
        assert short_name("owner/model") == "model"
        assert short_name("/some/where/model/") == "model"

    def test_the_digest_is_of_the_contents(self, copied, model_folder) -> None:
        folder = copied()
        assert model_digest(params(folder)) == model_digest(params(model_folder("bert")))
        edit_json(folder / "config.json", note="changed")
        assert model_digest(params(folder)) != model_digest(params(model_folder("bert")))

    def test_the_digest_of_what_cannot_be_read(self) -> None:
        assert model_digest(params("owner/model")) == "hub:owner/model@main"
        assert model_digest(params("/no/where")) == "missing:/no/where"


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
