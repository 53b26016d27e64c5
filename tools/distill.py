"""The script that made the backbone: a small BERT that learns the sentence embeddings of a larger teacher.

    python -m tools.distill --teacher DIR --dbpedia CSV --dolly JSONL -o DIR

For a batch of texts with teacher embeddings `t` and student embeddings `s` (mean-pooled, through a linear map that is
thrown away afterwards; both normalised), the loss is `1 - cos(s, t)` plus half the Kullback-Leibler divergence between
the softmax rows of `20 t t'` and `20 s s'`, without the diagonal. The student's word pieces start from the teacher's
embeddings of the same pieces, reduced to their principal components: rare words come with a meaning.

Of `stdlib-docs` only the training split is read, so that the accuracy on held-out docstrings is honest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from polyrank.core.errors import DataError
from polyrank.core.seeds import derive, torch_generator
from polyrank.quickstart import stdlib_docs
from tools.probes import embed, mean_pool, read_csv

logger = logging.getLogger(__name__)

CHUNK_WORDS = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Recipe:
    """All that decides what comes out, besides the texts and the teacher."""

    vocabulary: int = 8000
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    positions: int = 128
    epochs: int = 10
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    temperature: float = 20.0
    seed: int = 0


def gather(dbpedia: Path, dolly: Path) -> list[str]:
    """The training texts without labels, cut into pieces of at most `CHUNK_WORDS` words, each once, in a fixed order.

    Raises:
        DataError: a file cannot be read as what it should be.
    """
    texts = [document.text for document in stdlib_docs.split()[0]]
    texts += read_csv(dbpedia)[0]
    try:
        for line in dolly.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            texts += [record[field] for field in ("instruction", "context", "response") if record[field]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{dolly}: expected JSON lines with instruction, context and response, found {error!r}"
        ) from error
    return list(dict.fromkeys(piece for text in texts for piece in chunks(text)))


def chunks(text: str) -> list[str]:
    """Pieces of nearly equal length, at most `CHUNK_WORDS` words each.

    >>> [len(piece.split()) for piece in chunks("word " * 130)]
    [43, 43, 44]
    """
    words = text.split()
    count = -(-len(words) // CHUNK_WORDS)
    return [" ".join(words[len(words) * i // count : len(words) * (i + 1) // count]) for i in range(count)]


def train_tokenizer(texts: Sequence[str], recipe: Recipe) -> BertTokenizer:
    """A lower-case WordPiece tokenizer learned from the texts.

    The trainer breaks ties between equally frequent pieces by chance, so the rarest pieces may differ from run to run.
    """
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(texts, vocab_size=recipe.vocabulary, special_tokens=SPECIAL, show_progress=False)
    # Sorted, so that at least the same pieces have the same numbers.
    words = sorted(set(wordpiece.get_vocab()) - set(SPECIAL))
    numbered = {word: i for i, word in enumerate([*SPECIAL, *words])}
    return BertTokenizer(vocab=numbered, do_lower_case=True, model_max_length=recipe.positions)


def teacher_embeddings(teacher: Path, texts: Sequence[str], cache: Path) -> Tensor:
    """The teacher's embeddings (texts, its hidden size), computed once for the same teacher folder and texts."""
    key = hashlib.sha256("\0".join([str(teacher.resolve()), *texts]).encode()).hexdigest()[:16]
    file = cache / f"teacher-{key}.pt"
    if file.is_file():
        stored: Tensor = torch.load(file, weights_only=True)
        return stored.float()
    model = AutoModel.from_pretrained(teacher, dtype=torch.float32, attn_implementation="eager", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(teacher, local_files_only=True)
    embeddings = embed(model, tokenizer, texts, autocast=True)  # three times as fast as float32 where tried
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(embeddings.half(), file)
    return embeddings


def new_student(tokenizer: BertTokenizer, pieces: Tensor, recipe: Recipe) -> BertModel:
    """An untrained BERT whose word embeddings are the principal components of `pieces` (vocabulary, teacher's size)."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.feed_forward,
        max_position_embeddings=recipe.positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(derive(recipe.seed, "backbone", "init"))
        model = BertModel(config, add_pooling_layer=False)
    centred = pieces.float() - pieces.float().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ axes[: recipe.hidden].T
    with torch.no_grad():
        width = components.shape[1]  # a teacher smaller than the student fills only some columns
        model.embeddings.word_embeddings.weight[:, :width] = components * (0.05 / components.std())
        model.embeddings.word_embeddings.weight[tokenizer.pad_token_id] = 0.0
    return model


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The loss in the module's docstring, for normalised embeddings (batch, teacher's hidden size)."""
    cosine = 1 - (student * teacher).sum(-1).mean()
    if len(student) < 3:  # a row without its diagonal has nothing to compare
        return cosine
    others = ~torch.eye(len(student), dtype=torch.bool)
    wanted, got = ((temperature * x @ x.T)[others].view(len(x), -1).log_softmax(-1) for x in (teacher, student))
    return cosine + 0.5 * functional.kl_div(got, wanted, reduction="batchmean", log_target=True)


def batches(lengths: Sequence[int], size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of row numbers: shuffled, yet texts of like length share a batch."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = 50 * size
    cut: list[list[int]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda i: lengths[i])
        cut += [near[i : i + size] for i in range(0, len(near), size)]
    for i in torch.randperm(len(cut), generator=generator).tolist():
        yield cut[i]


def train(model: BertModel, tokenizer: BertTokenizer, texts: Sequence[str], targets: Tensor, recipe: Recipe) -> float:
    """Train the student in place; the mean loss of the last epoch."""
    ids = tokenizer(list(texts), truncation=True, max_length=recipe.positions)["input_ids"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "backbone", "projection"))
        projection = nn.Linear(recipe.hidden, targets.shape[1])
    parameters = [*model.parameters(), *projection.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    steps_an_epoch = sum(1 for _ in batches([0] * len(ids), recipe.batch, torch.Generator()))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps_an_epoch, pct_start=0.1
    )
    logger.info("%d texts, %d parameters, %d steps", len(ids), model.num_parameters(), schedule.total_steps)
    model.set_attn_implementation("eager")  # three times as fast as sdpa in bfloat16 on the CPU where tried
    model.train()
    total = float("nan")
    for epoch in range(recipe.epochs):
        started, total = time.monotonic(), 0.0
        generator = torch_generator(recipe.seed, "backbone", "batches", epoch)
        for rows in batches([len(row) for row in ids], recipe.batch, generator):
            encoded = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16):
                states = model(**encoded).last_hidden_state
            found = functional.normalize(projection(mean_pool(states.float(), encoded["attention_mask"])), dim=-1)
            loss = distillation_loss(found, targets[rows], recipe.temperature)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        logger.info("epoch %d of %d: loss %.4f, %.0f s", epoch + 1, recipe.epochs, total / steps_an_epoch, seconds)
    return total / steps_an_epoch


def distill(teacher: Path, texts: Sequence[str], out: Path, recipe: Recipe, cache: Path) -> None:
    """Train a tokenizer and a student on the texts and write both to `out`, the weights in bfloat16."""
    tokenizer = train_tokenizer(texts, recipe)
    pieces = [token.removeprefix("##") for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    targets = teacher_embeddings(teacher, texts, cache)
    model = new_student(tokenizer, teacher_embeddings(teacher, pieces, cache), recipe)
    train(model, tokenizer, texts, targets, recipe)
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    logger.info("written to %s", out)


def main(arguments: Iterable[str] | None = None) -> None:
    """Distil a backbone as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--dbpedia", type=Path, required=True, help="DBpedia training texts, CSV with label,text")
    parser.add_argument("--dolly", type=Path, required=True, help="databricks-dolly-15k, JSON lines")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "polyrank-distill")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    texts = gather(options.dbpedia, options.dolly)
    distill(options.teacher, texts, options.out, Recipe(epochs=options.epochs), options.cache)


if __name__ == "__main__":
    main()
