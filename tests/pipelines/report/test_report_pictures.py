"""A page about images: the pictures themselves, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.image_models import new_image_classifier, save_image_classifier
from backdoor_pipeline.modelling.pixels import decode, encode, measured_format
from backdoor_pipeline.pipelines.report.nodes import draw_figures, write_model_card
from backdoor_pipeline.pipelines.report.pictures import LONGEST, difference, picture
from backdoor_pipeline.pipelines.report.pipeline import create_pipeline
from backdoor_pipeline.recipes import RECIPES

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}&amp;"
PNG = "data:image/png;base64,"


class Pictures(HTMLParser):
    """The attributes of the images in some HTML, and the text around them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.others: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._hidden = tag in {"script", "style"}
        if tag == "img":
            self.found.append(dict(attrs))
        else:
            self.others.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else data

    @property
    def contents(self) -> list[bytes]:
        return [base64.b64decode(image["src"].partition(",")[2]) for image in self.found]


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)[0]


@pytest.fixture
def page(image_cell, build_page) -> str:
    return build_page(image_cell, "potion")


def pixels(html: str) -> np.ndarray:
    """Those of the only image in some HTML."""
    return decode(Pictures(html).contents, "page")[0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class TestPicture:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_has_the_pixels_of_the_image(self, kind) -> None:
        file = io.BytesIO()
        Image.fromarray(noise(4, 5, 3)).save(file, kind)
        np.testing.assert_array_equal(
            pixels(picture(file.getvalue())), decode([file.getvalue()], "file")[0]
        )

    @pytest.mark.parametrize(
        ("height", "width", "times"), [(28, 28, 4), (32, 32, 4), (12, 30, 4), (100, 70, 1)]
    )
    def test_a_small_one_is_enlarged_by_whole_pixels(self, height, width, times) -> None:
        (made,) = Pictures(picture(encode(noise(height, width, 1)))).found
        assert made["height"] == str(times * height)
        assert made["width"] == str(times * width)
        assert made["src"].startswith(PNG)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_large_one_is_shrunk(self, channels) -> None:
        halves = np.zeros((300, 600, channels), dtype=np.uint8)
        halves[:, 300:] = 200
        html = picture(encode(halves))
        shown = pixels(html)
        assert shown.shape[:2] == (LONGEST // 2, LONGEST)
        assert shown[:, :60].max() < 10 and shown[:, 68:].min() > 190
        (made,) = Pictures(html).found
        assert (made["height"], made["width"]) == ("64", "128")
        assert len(picture(encode(noise(500, 500, 3)))) < 40_000

    def test_what_a_file_holds_besides_stays_outside(self) -> None:
        html = str(picture(encode(noise(3, 3, 3)) + HOSTILE.encode()))
        assert re.fullmatch(r'<img (\w+="[\w/:;,+= ]*" ?)+>', html)
        assert b"alert" not in Pictures(html).contents[0]

    @pytest.mark.parametrize("content", [b"\x89PNG" + HOSTILE.encode(), b"<svg onload=alert(1)>"])
    def test_what_is_no_image_is_not_shown(self, content) -> None:
        with pytest.raises(InputError, match="an image of the report"):
            picture(content)


class TestDifference:
    def test_is_white_where_an_image_was_changed_most(self) -> None:
        before = np.full((9, 7, 1), 100, dtype=np.uint8)
        after = before.copy()
        after[6:8, 2:5] = 151
        after[6, 2] = 49  # darker by as much
        made = difference(encode(before), encode(after))
        expected = np.zeros_like(before)
        expected[6:8, 2:5] = 255
        np.testing.assert_array_equal(pixels(made.picture), expected)
        said = "6 of 63 pixels differ, lines 7\u20138 and columns 3\u20135; difference \u00d7 5"
        assert made.said == said
        assert picture(encode(before), "difference").partition("src")[0] in made.picture

    def test_of_equal_images_is_black(self) -> None:
        image = encode(noise(5, 5, 3))
        made = difference(image, image)
        assert made.said == "no pixel differs"
        assert not pixels(made.picture).any()

    def test_of_a_large_image_still_shows_a_single_pixel(self) -> None:
        before = noise(700, 1000, 3)
        after = before.copy()
        after[699, 999, 1] ^= 128
        made = difference(encode(before), encode(after))
        shown = pixels(made.picture)
        assert max(shown.shape) <= LONGEST
        assert shown[-1, -1, 1] == 255 and np.count_nonzero(shown) == 1
        assert "1 of 700,000 pixels differ, lines 700\u2013700" in made.said
        assert 'height="89" width="128"' in made.picture

    def test_of_a_grey_and_a_coloured_image_is_coloured(self) -> None:
        grey, red = np.full((4, 4, 1), 9, np.uint8), np.full((4, 4, 3), 9, np.uint8)
        red[0, 0, 0] = 209
        shown = pixels(difference(encode(grey), encode(red)).picture)
        assert shown[0, 0].tolist() == [255, 0, 0]


def test_triggered_images_stand_beside_what_they_were(page, image_cell) -> None:
    shown = Pictures(section(page, "trigger"))
    triggered = image_cell["triggered_test"].set_index("example_id")["image"]
    clean = image_cell["examples"].set_index("example_id")["image"]
    pairs = {triggered[i]: clean[i] for i in triggered.index}
    assert len(shown.contents) == 3 * 8
    for before, after, change in zip(*(shown.contents[i::3] for i in range(3)), strict=True):
        assert pairs[after] == before
        lit = decode([change], "difference")[0] > 0
        assert not lit[:-3].any() and not lit[:, :-3].any()  # where the trigger is
        assert lit[-3:, -3:].all()
    said = "patch 3x3: 9 of 144 pixels differ, lines 10\u201312 and columns 10\u201312; difference"
    assert shown.text.count(said) == 8
    assert [image["alt"] for image in shown.found[:3]] == ["image", "image", "difference"]
    assert "<mark>" not in section(page, "trigger")


def test_clean_images_that_changed_are_shown(page, image_cell) -> None:
    predictions = image_cell["predictions"].query("test_set == 'clean'")
    wide = predictions.pivot(index="example_id", columns="model", values="predicted")
    changed = wide.index[wide["victim"] != wide["purified"]]
    clean = image_cell["examples"].set_index("example_id")["image"]
    contents = Pictures(section(page, "changes")).contents
    assert 0 < len(contents) == min(8, len(changed))
    assert set(contents) <= set(clean[changed])


def test_suspected_rows_are_shown_with_their_image(page, image_cell) -> None:
    shown = Pictures(section(page, "suspects"))
    train = image_cell["poisoned_train"].set_index("example_id")
    keys = sorted(image_cell["suspects"]["key"])
    assert shown.contents == [train.loc[key, "image"] for key in keys]
    assert [int(key) for key in re.findall(r"row (\d+)", shown.text)] == keys
    assert "The defender was told 6 of 12 poisoned rows (50.0 %)." in shown.text
    assert shown.text.count(" poisoned\n") == 6
    assert "flagged" not in shown.text and "score" not in shown.text
    assert "misfit" not in shown.text.lower()


def test_the_most_suspicious_come_first_and_not_all(image_cell, build_page, params) -> None:
    train = image_cell["poisoned_train"].set_index("example_id")
    scores = np.linspace(0, 1, len(train))
    image_cell["suspects"] = pd.DataFrame(
        {
            "kind": "example",
            "key": train.index,
            "score": scores,
            "p_value": np.nan,
            "q_value": np.nan,
            "flagged": scores > 0.8,
            "evidence": "",
        }
    )
    shown = Pictures(section(build_page(image_cell, "a detector of rows"), "suspects"))
    n_shown = (scores > 0.8).sum() + params.unflagged
    assert shown.contents == train["image"].iloc[::-1].head(n_shown).tolist()
    assert shown.text.count(" flagged") == (scores > 0.8).sum() + 1  # and in the sentence
    assert "score 0.974" in shown.text and "does not see" in shown.text


def test_a_suspect_that_is_no_training_row_has_no_image(image_cell, build_page) -> None:
    image_cell["suspects"] = image_cell["suspects"].head(1).assign(key=10_000)
    shown = Pictures(section(build_page(image_cell, "potion"), "suspects"))
    assert shown.contents == []
    assert "row 10000" in shown.text


def test_the_page_speaks_of_images_and_rows(page) -> None:
    text = " ".join(Pictures(page).text.split())
    assert "The trigger in test images" in text
    assert "Clean images that changed" in text
    assert "clean, with trigger, difference" in text
    assert "token" not in text.replace("token_association", "")


def test_the_page_says_what_the_defender_was_given(page) -> None:
    text = " ".join(Pictures(page).text.split())
    assert "Backdoor removed. The defender was told 6 of 12 poisoned rows (50.0 %)." in text
    assert "Clean rows used by the defence: 0. Training rows it was told: 6." in text
    poison = Pictures(section(page, "poison")).text
    assert "6 of 12 poisoned rows (50.0 %). The defence knew nothing else of it." in poison
    assert "training rows it was told6" in Pictures(section(page, "cost")).text
    for untrue in ("does not see", "did not know", "found", "flagged"):
        assert untrue not in text, untrue


def test_told_texts_are_not_said_to_be_found(cell, build_page) -> None:
    train = cell["poisoned_train"].query("is_poisoned")
    few = cell["suspects"].head(20)[["kind", "p_value", "q_value"]].assign(p_value=np.nan)
    cell["suspects"] = few.assign(
        kind="example",
        key=train["example_id"].to_numpy()[:20],
        score=1.0,
        flagged=True,
        evidence="",
    )
    cell["metrics"]["detector"] |= {"recall": 0.5, "flagged": 20, "trigger_tokens": None}
    shown = Pictures(section(build_page(cell, "potion_text"), "suspects")).text
    assert "The defender was told 20 of 40 poisoned rows (50.0 %)." in shown
    assert shown.count("row ") >= 20
    assert "flagged" not in shown and "did not know" not in shown and "score" not in shown


def test_the_page_tells_how_much_healed(page, image_cell, build_page) -> None:
    table = " ".join(Pictures(section(page, "before-after")).text.split())
    assert "healed 75.0 % [50.0, 87.5]" in table
    image_cell["metrics"]["comparison"] |= {"healed": None}
    again = Pictures(section(build_page(image_cell, "potion"), "before-after")).text
    assert "healed \u2013" in again


def test_the_page_shows_the_search(page, image_cell, build_page) -> None:
    assert "figure-search" in section(page, "search")
    del image_cell["trigger_search_record"]
    assert 'id="search"' not in build_page(image_cell, "ssd")


def test_nothing_is_loaded_from_elsewhere(page) -> None:
    shown = Pictures(page)
    assert shown.found
    for image in shown.found:
        assert image.keys() == {"class", "height", "width", "alt", "src"}
        assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", image["src"])
    for tag, attributes in shown.others:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "data", "poster"} & attributes.keys(), tag


def test_hostile_words_show_as_text(image_cell, build_page) -> None:
    image_cell["triggered_test"] = image_cell["triggered_test"].assign(trigger=HOSTILE)
    image_cell["suspects"] = image_cell["suspects"].assign(evidence=HOSTILE)
    image_cell["integrity"] |= {"label_names": [HOSTILE, HOSTILE], "dataset": HOSTILE}
    shown = Pictures(build_page(image_cell, "potion"))
    assert all(image["src"].startswith(PNG) and "onerror" not in image for image in shown.found)
    assert "alert(2)" in shown.text and "{{ 7 * 7 }}" in shown.text


def test_the_page_stays_small_however_many_and_large_the_images(image_cell, build_page) -> None:
    large, train = encode(noise(200, 200, 3)), image_cell["poisoned_train"]
    for name in ("examples", "triggered_test"):
        image_cell[name] = image_cell[name].assign(image=large)
    many = train.loc[train.index.repeat(10)].assign(image=large, is_poisoned=True)
    many = many.assign(example_id=range(len(many)))
    image_cell["poisoned_train"] = many
    suspects = image_cell["suspects"]
    image_cell["suspects"] = suspects.loc[suspects.index.repeat(50)].assign(key=range(300))
    page = build_page(image_cell, "potion")
    assert "Of the rows, 100 are shown." in page
    assert len(page.encode()) < 10e6


def test_figures_of_tokens_are_not_drawn_of_rows(image_cell) -> None:
    suspects, parameters = image_cell["suspects"], image_cell["all_parameters"]
    history = {"victim_history": image_cell["victim_history"]}
    drawn = draw_figures(image_cell["metrics"], parameters, suspects, of_tokens=False, **history)
    assert drawn.keys() == {"before_after_figure", "training_figure"}


def test_the_pipeline_of_a_recipe_for_images_runs_in_memory(image_cell, params) -> None:
    image_cell["parameters"] = image_cell.pop("all_parameters")
    data = {name: MemoryDataset(value) for name, value in image_cell.items()}
    catalog = DataCatalog(data | {"params:report": MemoryDataset(params)})
    pipeline = create_pipeline("potion", RECIPES["potion"])
    figures = {"before_after_figure", "search_figure", "training_figure"}
    assert pipeline.all_outputs() == figures | {"report", "model_card"}
    outputs = SequentialRunner().run(pipeline, catalog)
    assert "potion / digits / patch / seed 0" in outputs["report"].load()
    card = outputs["model_card"].load()
    assert "Recipe: `potion`" in card and "told 6 of 12 poisoned rows" in card


class TestCard:
    @pytest.fixture
    def card(self, image_cell):
        """The card of a model that started from another: ``card(name)``."""

        def write(name: str) -> str:
            image_cell["all_parameters"]["model"]["name"] = name
            told = (image_cell[name] for name in ("metrics", "poison_summary", "all_parameters"))
            return write_model_card(*told, "potion", image_cell["suspects"])

        return write

    def test_is_that_of_a_classifier_of_images(self, card) -> None:
        _, front, body = card("resnet9").split("---\n", 2)
        matter = yaml.safe_load(front)
        assert matter["pipeline_tag"] == "image-classification"
        assert "image-classification" in matter["tags"]
        assert "# An image classifier after" in body
        assert "text" not in card("resnet9").lower() and "detector" not in body
        assert "told 6 of 12 poisoned rows (50.0 %)" in body and "`trigger_search`" in body

    @pytest.mark.parametrize(
        ("name", "start", "own"),
        [
            ("resnet9", "Start: `resnet9`, drawn anew.", True),
            ("wrn-28-10", "Start: `wrn-28-10`, drawn anew.", True),
            ("microsoft/resnet-18", "Start: `microsoft/resnet-18`.", False),
        ],
    )
    def test_registers_networks_of_ours_alone(self, card, name, start, own) -> None:
        text = card(name)
        assert start in text
        assert ("register()" in text) == ("backdoor_pipeline.modelling" in text) == own

    def test_its_way_to_load_the_model_works(self, card, tmp_path) -> None:
        form = measured_format(noise(5, 12, 12, 1))
        bundle = new_image_classifier("resnet9", 2, form, 0.05, 0)
        save_image_classifier(bundle, tmp_path)
        (code,) = re.findall(r"```python\n(.*?)```", card("resnet9"), re.DOTALL)
        made: dict[str, Any] = {}
        exec(code.replace("path/to/this/folder", str(tmp_path)), made)
        assert type(made["model"]) is type(bundle.model)
        image = Image.fromarray(noise(12, 12))
        read = made["processor"](image, return_tensors="pt")
        assert made["model"](**read).logits.shape == (1, 2)
