"""What a frozen encoder knows: mean-pooled embeddings and a linear probe on them.

    python -m tools.probes MODEL... [--ag-news DIR]

prints one line for each model and probe. The model card of the backbone reports these figures.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from polyrank.core.errors import DataError
from polyrank.core.seeds import torch_generator
from polyrank.quickstart import stdlib_docs

logger = logging.getLogger(__name__)

AG_NEWS_TRAIN_ROWS = 4000
TOKENS = 128

Labelled = tuple[list[str], list[str]]  # texts, labels


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the token states (batch, tokens, hidden) over the tokens that the mask (batch, tokens) keeps."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


@torch.inference_mode()
def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch: int = 128,
    autocast: bool = False,
) -> Tensor:
    """Mean-pooled, normalised embeddings (texts, hidden) in float32, in the order of the texts.

    Each text counts with its first `TOKENS` tokens, or as many as the model takes. Texts of like length share a batch,
    so little time goes to padding. With `autocast` the matrix products are in bfloat16.
    """
    model.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: dict[int, Tensor] = {}
    limit = min(TOKENS, tokenizer.model_max_length)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        encoded = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states = model(**encoded).last_hidden_state
        pooled = functional.normalize(mean_pool(states.float(), encoded["attention_mask"]), dim=-1)
        rows.update(zip(chosen, pooled, strict=True))
    return torch.stack([rows[i] for i in range(len(texts))])


def linear_probe(train: Tensor, train_labels: Sequence[str], test: Tensor, test_labels: Sequence[str]) -> float:
    """Test accuracy of a logistic regression on frozen features (rows, hidden).

    The features are standardised with the training set's mean and deviation; the objective is the mean cross-entropy
    plus `1e-3 |W|^2`, minimised from zero by L-BFGS, so nothing is drawn at random.
    """
    classes = sorted(set(train_labels))
    target = torch.tensor([classes.index(label) for label in train_labels])
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    features = (train - mean) / deviation
    weight = torch.zeros(train.shape[1], len(classes), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(features @ weight + bias, target) + 1e-3 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        return loss

    optimiser.step(objective)  # type: ignore[no-untyped-call]  # likewise
    with torch.no_grad():
        found: list[int] = (((test - mean) / deviation) @ weight + bias).argmax(-1).tolist()
    right = [classes[i] == label for i, label in zip(found, test_labels, strict=True)]
    return sum(right) / len(right)


def docstrings() -> tuple[Labelled, Labelled]:
    """Training and held-out docstrings with their topics."""
    train, test = stdlib_docs.split()
    return ([d.text for d in train], [d.topic for d in train]), ([d.text for d in test], [d.topic for d in test])


def ag_news(folder: Path) -> tuple[Labelled, Labelled]:
    """A seeded sample of AG News' training rows, and all test rows, from `train.csv` and `test.csv`.

    Raises:
        DataError: a file is missing or has no columns `label` and `text`.
    """
    texts, labels = read_csv(folder / "train.csv")
    chosen = torch.randperm(len(texts), generator=torch_generator(0, "ag-news-probe"))[:AG_NEWS_TRAIN_ROWS].tolist()
    return ([texts[i] for i in chosen], [labels[i] for i in chosen]), read_csv(folder / "test.csv")


def read_csv(path: Path) -> Labelled:
    """Texts and labels of a CSV file with the columns `label` and `text`.

    Raises:
        DataError: the file is missing, empty or has other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: expected a CSV file with the columns label and text, found {error!r}") from error
    if not rows:
        raise DataError(f"{path}: expected rows of label and text, found none")
    return [text for text, _ in rows], [label for _, label in rows]


def scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ag_news_folder: Path | None = None
) -> Iterator[tuple[str, float]]:
    """Name and accuracy of each probe."""
    probes = {"held-out docstrings": docstrings}
    if ag_news_folder is not None:
        probes["AG News"] = lambda: ag_news(ag_news_folder)
    for name, load in probes.items():
        (train, train_labels), (test, test_labels) = load()
        features = embed(model, tokenizer, train), embed(model, tokenizer, test)
        yield name, linear_probe(features[0], train_labels, features[1], test_labels)


def main(arguments: Iterable[str] | None = None) -> None:
    """Measure the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model folders in the transformers format")
    parser.add_argument("--ag-news", type=Path, help="folder with AG News' train.csv and test.csv (label,text)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for folder in options.models:
        model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for name, accuracy in scores(model, tokenizer, options.ag_news):
            logger.info("%s: %s %.1f %%", folder.name, name, 100 * accuracy)


if __name__ == "__main__":
    main()
