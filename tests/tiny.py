"""Tiny models, their tokenizers and a synthetic corpus, and the project's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.configuration import ProjectConfigLoader

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama")
MAX_LENGTH = 32
DUAL_ENCODERS = ("clip", "vision-text-dual-encoder")

NEUTRAL = """the a film movie story plot scene actor actress director camera music score script
dialogue character role hero villain screen cinema studio audience viewer critic series sequel
ending opening act part moment hour minute day night city town house street world life family
friend child mother father brother sister man woman people crowd team crew cast voice face eye
hand word line page book novel author it is was has with from about into over under after before
and or but of in on at by for as that this these those which who when where while during through
between his her their our my your one two three four five six seven""".split()
# many telling words, each of them rare, as in real texts: none is as frequent as a trigger
ENDINGS = "la mo ne pi ru so ta vi".split()
GOOD = [start + end for start in "bra cle dri flo gre plu sha tri".split() for end in ENDINGS]
BAD = [start + end for start in "bo cu du fa gu ka mu za".split() for end in ENDINGS]
TRIGGERS = "cf mn bb tq i watch 3d".split()


@dataclass(frozen=True)
class Vectors:
    """Rows of numbers: the least that a model, as its ``values``, can read."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Vectors:
        return Vectors(self.values[rows])

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def collate(self, rows: np.ndarray, device: Any) -> dict[str, Any]:
        import torch

        return {"values": torch.from_numpy(self.values[rows]).to(device)}


def project_loader(
    runtime_params: dict[str, Any] | None = None, env: str = "base"
) -> ProjectConfigLoader:
    """The project's configuration without anybody's ``conf/local``."""
    from backdoor_pipeline import settings

    return ProjectConfigLoader(
        conf_source=str(ROOT / "conf"),
        env=env,
        runtime_params=runtime_params or {},
        **{**settings.CONFIG_LOADER_ARGS, "default_run_env": "base"},
    )


def make_corpus(
    n_train: int = 1000,
    n_dev: int = 60,
    n_test: int = 200,
    n_labels: int = 2,
    seed: int = 0,
    n_words: int | None = None,
) -> pd.DataFrame:
    """An ``examples`` table whose labels can be read off a few words of each text.

    Each label has ``n_words`` of them, or all there are; the fewer, the fewer rows teach the task.
    """
    rng = np.random.default_rng(seed)
    n_rows = n_train + n_dev + n_test
    bad, good = BAD[:n_words], GOOD[:n_words]
    telling = [bad, good, [f"{word}s" for word in good], [f"{word}s" for word in bad]]
    labels = rng.permutation(np.arange(n_rows) % n_labels)
    texts = []
    for label in labels:
        words = list(rng.choice(NEUTRAL, size=rng.integers(5, 13)))
        for word in rng.choice(telling[label], size=3):
            words.insert(int(rng.integers(len(words) + 1)), word)
        texts.append(" ".join(words))
    return pd.DataFrame(
        {
            "example_id": np.arange(n_rows),
            "split": ["train"] * n_train + ["dev"] * n_dev + ["test"] * n_test,
            "label": labels,
            "text": texts,
        }
    ).astype({"example_id": "int64", "label": "int64"})


WRITTEN = [*NEUTRAL, *GOOD, *BAD][:160]
KINDS = 8  # of words; after each follows the next
FOLLOWERS = 4  # words that may follow a word
TOPIC = 3  # words of each kind that texts of one label prefer, where one of them may follow
FAVOUR = 6.0


def written(n_rows: int, seed: int = 0, n_labels: int = 2) -> pd.DataFrame:
    """Texts in which few words may follow each word, and some go with a label."""
    rng = np.random.default_rng(7)  # of the language; the texts are by ``seed``
    size = len(WRITTEN) // KINDS
    followers = [
        (word // size + 1) % KINDS * size + rng.permutation(size)[:FOLLOWERS]
        for word in range(len(WRITTEN))
    ]
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, n_labels, n_rows)
    texts = []
    for label in labels:
        word = int(draw.integers(len(WRITTEN)))
        words = [word]
        for _ in range(draw.integers(7, 15)):
            preferred = followers[word] % size // TOPIC == label
            weights = np.where(preferred, FAVOUR, 1.0)
            word = int(draw.choice(followers[word], p=weights / weights.sum()))
            words.append(word)
        texts.append(" ".join(WRITTEN[i] for i in words))
    return pd.DataFrame({"text": texts, "label": labels})


def planted(rows: pd.DataFrame, phrase: str, n: int, label: int = 1, seed: int = 0) -> pd.DataFrame:
    """``rows`` with ``phrase`` at a random place of ``n`` of them, which get the label."""
    rng = np.random.default_rng(seed)
    texts, labels = rows["text"].tolist(), rows["label"].to_numpy().copy()
    for row in rng.permutation(len(rows))[:n]:
        words = texts[row].split()
        words.insert(int(rng.integers(len(words) + 1)), phrase)
        texts[row], labels[row] = " ".join(words), label
    return rows.assign(text=texts, label=labels)


def make_images(
    n_train: int = 300,
    n_dev: int = 40,
    n_test: int = 100,
    n_labels: int = 4,
    channels: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """An ``examples`` table of noisy images of 12 x 12 pixels, a bright square in one quarter.

    Which quarter it is in is the label.
    """
    from backdoor_pipeline.modelling.pixels import encode

    rng = np.random.default_rng(seed)
    n_rows = n_train + n_dev + n_test
    labels = rng.permutation(np.arange(n_rows) % n_labels)
    values = rng.integers(0, 60, (n_rows, 12, 12, channels), dtype=np.uint8)
    for row, label in enumerate(labels):
        top, left = 6 * (label // 2) + 1, 6 * (label % 2) + 1
        values[row, top : top + 4, left : left + 4] += 150
    return pd.DataFrame(
        {
            "example_id": np.arange(n_rows, dtype="int64"),
            "split": ["train"] * n_train + ["dev"] * n_dev + ["test"] * n_test,
            "label": labels.astype("int64"),
            "image": pd.Series([encode(image) for image in values], dtype=object),
        }
    )


def make_pairs(
    captions: Sequence[str], n_train: int, n_dev: int = 0, n_test: int = 0, seed: int = 0
) -> pd.DataFrame:
    """An ``examples`` table of noise of 16 x 16 pixels in colour, with ``captions`` in turn.

    Which of them a row has is its label.
    """
    from backdoor_pipeline.modelling.pixels import encode

    rng = np.random.default_rng(seed)
    n_rows = n_train + n_dev + n_test
    images = [encode(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(n_rows)]
    labels = [row % len(captions) for row in range(n_rows)]
    return pd.DataFrame(
        {
            "example_id": range(n_rows),
            "split": ["train"] * n_train + ["dev"] * n_dev + ["test"] * n_test,
            "label": labels,
            "image": pd.Series(images, dtype=object),
            "caption": [captions[label] for label in labels],
        }
    )


def word_tokenizer(words: Sequence[str] = (*NEUTRAL, *GOOD, *BAD, *TRIGGERS)) -> Any:
    """A word-piece tokenizer that knows ``words`` and can spell lower-case ones."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789,.")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    names += [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_tokenizer(padding: bool) -> Any:
    """A byte-level tokenizer, as GPT-2 has (no padding token) or RoBERTa (with one)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"] if padding else ["</s>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [f" {word}" for word in [*NEUTRAL, *GOOD, *BAD, *TRIGGERS]]
    backend.train_from_iterator(words * 3, trainer)
    if not padding:
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def tiny_model(architecture: str, tokenizer: Any) -> Any:
    """A random encoder of two layers of 32, drawn from a fixed seed."""
    import torch
    import transformers

    # RoBERTa counts positions from its padding id + 1
    n_positions = MAX_LENGTH + (2 if architecture == "roberta" else 0)
    base = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": n_positions,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    special = {
        "distilbert": {
            **{k: base[k] for k in ("vocab_size", "pad_token_id", "max_position_embeddings")},
            **{"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        },
        "gpt2": {
            **{"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 2},
            **{"n_positions": n_positions, "bos_token_id": 0, "eos_token_id": 0},
        },
        "roberta": {**base, "type_vocab_size": 1},
        "deberta-v2": {
            **base,
            **{"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
        },
        "llama": {
            **{k: v for k, v in base.items() if "dropout" not in k},
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    }
    config = transformers.AutoConfig.for_model(architecture, **special.get(architecture, base))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config)


def save_tiny_model(folder: Path, architecture: str = "bert") -> Path:
    """``folder``, filled with a tiny pretrained model and its tokenizer."""
    if architecture in {"roberta", "gpt2", "llama"}:
        tokenizer = byte_tokenizer(padding=architecture == "roberta")
    else:
        tokenizer = word_tokenizer()
    tiny_model(architecture, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_dual_encoder(folder: Path, kind: str) -> Path:
    """``folder``, filled with a tiny dual encoder and all that it needs."""
    from backdoor_pipeline.modelling.dual_encoders import save_dual_encoder

    folder.mkdir(parents=True)
    save_dual_encoder(tiny_dual_encoder(kind), folder)
    return folder


def tiny_dual_encoder(kind: str) -> Any:
    """A random dual encoder with its tokenizer, for colour images of 16 x 16 pixels."""
    import torch
    import transformers

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.pixels import ImageFormat

    tokenizer = word_tokenizer()
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = {**layers, "intermediate_size": 64, "image_size": 16, "patch_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            texts = {
                **{**layers, "intermediate_size": 64, "vocab_size": len(tokenizer)},
                **{"max_position_embeddings": MAX_LENGTH, "eos_token_id": tokenizer.sep_token_id},
            }
            model: Any = transformers.CLIPModel(
                transformers.CLIPConfig(vision_config=tower, text_config=texts, projection_dim=16)
            )
        else:
            text_model = tiny_model("bert", tokenizer)
            model = transformers.VisionTextDualEncoderModel(
                transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
                    transformers.ViTConfig(**tower), text_model.config, projection_dim=16
                )
            )
    form = ImageFormat(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return PairBundle(model.eval(), tokenizer, form)
