"""Models and works that are timed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel, LlamaConfig, LlamaModel, PreTrainedModel

from polyrank import config as configuration
from polyrank.core.seeds import derive
from polyrank.federation.loading import initial, participant
from polyrank.federation.round import cohort
from polyrank.federation.site import Site
from polyrank.quickstart import backbone_path
from polyrank.training.work import Work

COMMON = (
    *("data.partition=iid", "ranks.policy=fixed", "ranks.levels=[8]", "aggregation.method=fedavg"),
    *("training.lr=1e-3", "evaluation.diagnostics=false", "evaluation.rank_groups=false"),
)
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


@dataclass(frozen=True)
class Shape:
    """A model and its data.

    Args:
        name: for people.
        overrides: of the configuration.
        clients: that are timed.
    """

    name: str
    overrides: tuple[str, ...]
    clients: int


def prepared(shape: Shape, *extra: str) -> tuple[Site, list[Work]]:
    """Base and data, and works of clients of the first round."""
    site = participant(configuration.load(None, [*COMMON, *shape.overrides, *extra]))
    options = site.config.federation
    names = cohort(sorted(site.examples), options.participation, options.seed, 1)[: shape.clients]
    adapter = initial(site.resident, site.config)
    return site, [Work(name, 1, adapter, derive(0, "benchmark", name)) for name in names]


def random_texts(path: Path, count: int, words: int) -> Path:
    """A file of so many texts of so many words, with four labels; all the same each time."""
    random = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([" ".join(random.choice(WORDS, words)), f"l{i % 4}"] for i in range(count))
    return path


def distilbert(work: Path) -> Path:
    """The folder of DistilBERT's shape with random weights."""
    return _made(work / "distilbert", DistilBertModel, DistilBertConfig())


def decoder(work: Path) -> Path:
    """The folder of a Llama of one billion parameters with random weights, 2 GB in bfloat16."""
    size = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    return _made(work / "llama-1b", LlamaModel, LlamaConfig(vocab_size=8000, pad_token_id=0, **size, **heads))


def _made(folder: Path, kind: type[PreTrainedModel], config: object) -> Path:
    if not (folder / "tokenizer_config.json").is_file():
        torch.manual_seed(0)
        kind(config).to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(folder)  # last, so that the folder is whole
    return folder.absolute()


def encoders(work: Path, minilm: Path | None, ag_news: Path | None) -> Sequence[Shape]:
    """The quickstart's backbone, DistilBERT's shape and, where its files are given, MiniLM."""
    tenth = "federation.participation=0.1"
    found = [
        Shape("quickstart backbone, 4 x 128", ("data.size=50", "training.batch_size=16", tenth), 10),
        Shape(
            "DistilBERT's shape, 6 x 768",
            (f"model.name={distilbert(work)}", "data.size=50", "training.batch_size=32", tenth),
            2,
        ),
    ]
    if minilm and ag_news:
        files = (f"data.train={ag_news / 'train.csv'}", f"data.test={ag_news / 'test.csv'}")
        own = (f"model.name={minilm}", *files, "data.size=200", "training.batch_size=32", tenth)
        found.append(Shape("MiniLM, 6 x 384", own, 2))
    return found
