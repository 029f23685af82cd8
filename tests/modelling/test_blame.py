"""The blamed words of captions: a planted one is found, and all equal a loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from backdoor_pipeline.modelling.blame import blame, local_texts, most_blamed
from backdoor_pipeline.modelling.bundle import PairBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import embed_images, embed_texts
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import ImageFormat
from tiny import make_pairs, tiny_dual_encoder, word_tokenizer

CPU = ComputeParams(device="cpu", precision="fp32")
FORM = ImageFormat(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CAPTIONS = ["a film of the city", "the story of one actor", "two people in a house"]


def pairs_of(bundle, captions):
    return read_pairs(bundle, make_pairs(captions, len(captions)), 16)


class BagOfWords(torch.nn.Module):
    """Every image is the same vector; a text is the mean of its words' vectors."""

    def __init__(self, tokenizer, planted: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        words = normalize(torch.randn(len(tokenizer), 8, generator=generator), dim=1)
        self.direction = torch.eye(8)[0]
        words[:, 0] = 0
        words[tokenizer.convert_tokens_to_ids(planted)] = self.direction
        self.words = torch.nn.Parameter(words)

    def get_image_features(self, pixel_values):
        return SimpleNamespace(pooler_output=self.direction.expand(len(pixel_values), -1))

    def get_text_features(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        means = (self.words[input_ids] * mask).sum(dim=1) / mask.sum(dim=1)
        return SimpleNamespace(pooler_output=means)


@pytest.fixture
def bag() -> PairBundle:
    tokenizer = word_tokenizer()
    return PairBundle(BagOfWords(tokenizer, "city"), tokenizer, FORM)  # type: ignore[arg-type]


def test_ubt_11_6_the_planted_word_is_found(bag) -> None:
    pairs = pairs_of(bag, ["a film of the city", "city people", "one city in the story"])
    deltas = blame(bag, pairs, CPU)
    words = bag.tokenizer.convert_ids_to_tokens(most_blamed(pairs, deltas).tolist())
    assert words == ["city"] * 3
    local = local_texts(pairs, deltas, np.array(bag.tokenizer.all_special_ids), 1)
    for row in range(3):
        assert bag.tokenizer.convert_ids_to_tokens(local[row]) == ["[CLS]", "city", "[SEP]"]


def test_ubt_11_6_special_tokens_stay_and_words_keep_their_order(bag) -> None:
    pairs = pairs_of(bag, [*CAPTIONS, "film"])
    special = np.array(bag.tokenizer.all_special_ids)
    local = local_texts(pairs, blame(bag, pairs, CPU), special, 3)
    for row, caption in enumerate(pairs.captions):
        whole, text = pairs.texts[caption].tolist(), local[row].tolist()
        assert (text[0], text[-1]) == (whole[0], whole[-1])
        assert 1 <= len(text) - 2 <= 3
        places = [whole.index(token) for token in text]
        assert places == sorted(places)


def test_a_word_is_blamed_even_where_each_makes_the_image_less_similar(bag) -> None:
    bag.model.direction = -bag.model.direction
    pairs = pairs_of(bag, ["city", "city city"])
    special = set(bag.tokenizer.all_special_ids)
    assert not special & set(most_blamed(pairs, blame(bag, pairs, CPU)).tolist())


def test_deltas_equal_a_loop() -> None:
    bundle = tiny_dual_encoder("clip")
    pairs = pairs_of(bundle, [*CAPTIONS, CAPTIONS[0]])
    images = embed_images(bundle, pairs.images, CPU)
    special = set(bundle.tokenizer.all_special_ids)
    for row, delta in enumerate(blame(bundle, pairs, CPU)):
        text = pairs.texts[pairs.captions[row]]
        whole = embed_texts(bundle, pairs.texts.take(pairs.captions[row : row + 1]), CPU)[0]
        for place, token in enumerate(text):
            if int(token) in special:
                assert delta[place] == -np.inf
                continue
            ids = torch.tensor([np.delete(text, place).astype(np.int64)])
            with torch.no_grad():
                said = bundle.model.get_text_features(
                    input_ids=ids, attention_mask=torch.ones_like(ids)
                ).pooler_output[0]
            shorter = (said / said.norm()).numpy()
            assert delta[place] == pytest.approx(images[row] @ (whole - shorter), abs=1e-5)


def test_a_caption_without_words_stays_as_it_is(bag) -> None:
    pairs = pairs_of(bag, ["", "city"])
    special = np.array(bag.tokenizer.all_special_ids)
    local = local_texts(pairs, blame(bag, pairs, CPU), special, 2)
    assert bag.tokenizer.convert_ids_to_tokens(local[0]) == ["[CLS]", "[SEP]"]
