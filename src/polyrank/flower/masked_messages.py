"""What travels in the four steps of a secure sum: values of `polyrank.secure`, and one array of masked numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from polyrank.core import codec
from polyrank.core.errors import FlowerError
from polyrank.federation.contribution import Plan
from polyrank.flower.messages import OUTCOME, Asked, question, read_outcome, read_value, texts
from polyrank.flower.records import numbers, shown
from polyrank.secure.values import Hex
from polyrank.tasks.metric import Metric
from polyrank.training.work import Outcome

T = TypeVar("T")

STEP, NUMBERS = "secure", "numbers"
CARDS, SEALED, MASKED, SHARES = "query.cards", "query.sealed", "train.masked", "query.shares"
"""Types of the messages."""


@dataclass(frozen=True)
class Asks:
    """A client is asked for its card.

    Args:
        client: its name.
    """

    client: str


@dataclass(frozen=True)
class Box:
    """Sealed shares.

    Args:
        sealed: client -> what only it can read; on the way back, what it has sealed.
    """

    sealed: Mapping[str, Hex]


@dataclass(frozen=True)
class Contribute:
    """A client is asked to train, and to send what it contributes.

    Args:
        plan: of the sum.
        sealed: client -> what it sealed for this one.
    """

    plan: Plan
    sealed: Mapping[str, Hex]


@dataclass(frozen=True)
class Survivors:
    """Whose contributions are in the sum."""

    clients: tuple[str, ...]


def said(token: str, value: object) -> RecordDict:
    """A step's question or answer.

    Args:
        token: of the attempt.
        value: a frozen dataclass without tensors.
    """
    return RecordDict({STEP: ConfigRecord({STEP: json.dumps(codec.encode(value)[0]), "token": token})})


def read_said(kind: type[T], records: RecordDict, token: str | None = None) -> tuple[str, T]:
    """The attempt's token and the value of a question or an answer.

    Args:
        kind: of the value.
        records: what came.
        token: that it must have; None: any.

    Raises:
        FlowerError: it is of another kind, or of another attempt.
    """
    text, found = texts(records, STEP, (STEP, "token"))
    if token is not None and found != token:
        raise FlowerError("the reply belongs to another attempt")
    return found, read_value(kind, text, no_tensor)


def no_tensor(name: str, shape: tuple[int, ...]) -> Tensor:  # noqa: ARG001  # as the codec asks
    """None has a place in these values.

    Raises:
        FlowerError: always.
    """
    raise FlowerError(f"the message has a tensor {shown(name)}; expected none")


def to_contribute(asked: Asked, contribute: Contribute) -> RecordDict:
    """A client's work, and what it needs to mask what comes of it."""
    records = question(asked)
    records[STEP] = said(asked.token, contribute)[STEP]
    return records


def contributed(outcome: Outcome, asked: Asked, masked: np.ndarray) -> RecordDict:
    """What a node replies: masked numbers, and of its training what every client says in the clear."""
    header, _ = codec.encode(outcome)
    about = ConfigRecord({OUTCOME: json.dumps(header), "token": asked.token})
    return RecordDict({OUTCOME: about, NUMBERS: ArrayRecord({NUMBERS: Array(masked)})})


def read_contributed(
    records: RecordDict, asked: Asked, examples: int, metrics: Sequence[Metric], *, count: int, kind: np.dtype
) -> tuple[Outcome, np.ndarray]:
    """The outcome without what was trained, and the masked numbers.

    Args:
        records: what came.
        asked: what for.
        examples: that the client said it has.
        metrics: of the task.
        count: how many numbers there must be.
        kind: of the numbers.

    Raises:
        FlowerError: as `polyrank.flower.messages.read_answer`, or the numbers are others than were asked for.
    """
    outcome = read_outcome(records, asked, examples, metrics, no_tensor)
    arrays = records.array_records.get(NUMBERS, ArrayRecord())
    if list(arrays) != [NUMBERS]:
        raise FlowerError(f"the reply has the arrays {shown(list(arrays)[:3])}; expected {NUMBERS} alone")
    return outcome, numbers(NUMBERS, arrays[NUMBERS], count, kind)
