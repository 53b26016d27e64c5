"""What a task makes of a configuration's data, and who holds how much; of the model only the tokenizer is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from polyrank import ranks
from polyrank.config import Config
from polyrank.data import TextDataset
from polyrank.federation.loading import ReadSets, encode, left_out, shared_out
from polyrank.federation.population import read
from polyrank.tasks import settled
from polyrank.tasks.registry import recorded
from polyrank.tasks.task import Encoded


@dataclass(frozen=True, eq=False)
class Overview:
    """The data of a configuration as a run would begin with them.

    Args:
        config: with the task named, and the task's options as data and model have them.
        read: the sets, and the same as examples.
        rows: how many rows each source has, before shares and limits.
        examples: client -> how many it trains on.
        units: client -> what a pass over them is a mean over: examples, or trained tokens.
        left_out: client -> reason -> how many of its rows are no examples.
    """

    config: Config
    read: ReadSets
    rows: Mapping[str, int]
    examples: Mapping[str, int]
    units: Mapping[str, int]
    left_out: Mapping[str, Mapping[str, int]]


def overview(config: Config) -> Overview:
    """What a run of this configuration would read.

    Raises:
        PolyRankError: the data cannot be read, shared out or encoded as asked, or there is no tokenizer.
    """
    config = settled(config)
    held = read(config, ranks.policy(config.ranks))
    found = encode(config, held)
    train = found.encoded["train"]
    own = shared_out(held.partition, found.used, train)
    return Overview(
        config=recorded(config, found.task),
        read=found,
        rows=held.read,
        examples={client: len(examples) for client, examples in own.items()},
        units={client: found.task.units(examples, range(len(examples))) for client, examples in own.items()},
        left_out=left_out(held.partition, found.used, train),
    )


@dataclass(frozen=True)
class Piece:
    """A stretch of an example's text, and whether it is learned."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Sample:
    """One example.

    Args:
        row: where it stands in its source, counted from 1.
        pieces: its text as the model is given it.
        tokens: how many it has.
        label: its label, where there is one.
    """

    row: int
    pieces: tuple[Piece, ...]
    tokens: int
    label: str | None


def sample(read: ReadSets, name: str) -> Sample:
    """The first example of a set that nothing is cut of, or else the first one."""
    dataset, encoded = read.sets[name], read.encoded[name]
    whole = np.flatnonzero(~np.isin(encoded.kept, encoded.cut))
    index = int(whole[0]) if len(whole) else 0
    row = int(encoded.kept[index])
    label = None if dataset.labels is None else dataset.label_names[int(dataset.labels[row])]
    ids = encoded.examples.tokens[index]
    return Sample(dataset.row(row), _pieces(read, encoded, index), len(ids), label)


def _pieces(read: ReadSets, encoded: Encoded, index: int) -> tuple[Piece, ...]:
    """The text of an example's tokens, cut where training begins and ends.

    Each is what its tokens add to the text before them: decoders of words write no space before the first of a text.
    """
    ids = encoded.examples.tokens[index]
    trained = encoded.examples.targets[index] if read.task.writes else np.zeros(len(ids), dtype=bool)
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    found, before = [], ""
    for start, stop in pairwise(edges):
        text = read.tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False)
        found.append(Piece(text[len(before) :], bool(trained[start])))
        before = text
    return tuple(found)


def lengths(read: ReadSets, name: str) -> dict[str, np.ndarray]:
    """Tokens of each example of a set; where the task is to write, trained ones too."""
    examples = read.encoded[name].examples
    found = {"tokens": examples.lengths}
    if read.task.writes:
        found["trained tokens"] = np.array([read.task.units(examples, [i]) for i in range(len(examples))])
    return found


def kinds(dataset: TextDataset) -> dict[str, int]:
    """How many texts of each label there are; nothing where there are no labels."""
    if dataset.labels is None:
        return {}
    return dict(zip(dataset.label_names, dataset.label_counts().tolist(), strict=True))
