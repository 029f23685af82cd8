"""Names, digests and folders of models: what can be told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import folders
from backdoor_pipeline.modelling.folders import (
    ModelParams,
    check_model_folder,
    packaged_file,
    short_name,
)


def digest(name: str | Path) -> str:
    return folders.model_digest(ModelParams(name=str(name), max_length=1))


class TestNames:
    def test_the_packaged_model_is_a_folder(self) -> None:
        try:
            folder = folders.model_folder("minilm")
        except InputError:
            pytest.skip("the packaged encoder is not installed: `make install`")
        assert (folder / "config.json").is_file()

    @pytest.mark.parametrize("package", ["no-such-package", "numpy"])
    def test_a_packaged_model_that_is_not_installed(self, package) -> None:
        with pytest.raises(InputError, match=rf"'{package}'.*make install"):
            packaged_file(package, "no/such/model")

    @pytest.mark.parametrize("name", ["bert-base-uncased", "owner/model"])
    def test_a_hub_id_is_no_folder(self, name) -> None:
        assert folders.model_folder(name) is None

    @pytest.mark.parametrize("name", ["/no/where", "~/nowhere", "./nowhere", "a/b/c"])
    def test_what_looks_like_a_path_is_one(self, name) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            folders.model_folder(name)

    def test_a_file_is_no_folder(self, copied) -> None:
        with pytest.raises(InputError, match="is a file; give the model's folder"):
            folders.model_folder(str(copied() / "config.json"))

    def test_short_names(self) -> None:
        assert short_name("owner/model") == "model"
        assert short_name("/some/where/model/") == "model"

    def test_the_digest_is_of_the_contents(self, copied, model_folder) -> None:
        folder = copied()
        assert digest(folder) == digest(model_folder("bert"))
        (folder / "config.json").write_text("{}")
        assert digest(folder) != digest(model_folder("bert"))

    def test_the_digest_of_what_cannot_be_read(self) -> None:
        assert digest("owner/model") == "hub:owner/model@main"
        assert digest("/no/where") == "missing:/no/where"


class TestFolders:
    def test_a_whole_one_passes(self, model_folder) -> None:
        check_model_folder(model_folder("bert"))

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ("config.json", r"has no config\.json"),
            ("model.safetensors", "has no weights"),
            ("tokenizer*", r"has no tokenizer.*save_pretrained"),
        ],
    )
    def test_a_part_is_missing(self, copied, files, message) -> None:
        folder = copied()
        for path in folder.glob(files):
            path.unlink()
        with pytest.raises(InputError, match=message):
            check_model_folder(folder)

    @pytest.mark.parametrize("text", ["{", "", "[]", "3", "\udcff"])
    def test_broken_config(self, copied, text) -> None:
        folder = copied()
        (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=r"config\.json (is not valid JSON|holds no settings)"):
            check_model_folder(folder)
