"""What travels between server and clients in a round: one work, one outcome, as the codec makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from polyrank.core import codec
from polyrank.core.errors import CodecError, FlowerError
from polyrank.flower.records import from_array, from_record, nbytes, shapes_of, shown, to_record
from polyrank.tasks.metric import OWN, Metric
from polyrank.training.work import Outcome, Work

T = TypeVar("T")

WORK, OUTCOME, TRAINED = "work", "outcome", "trained"
EXACT = "base_change"
"""What travels as it is, whatever the wire's dtype: nobody trains it, and it is nobody's to round."""
MEASURED = ("loss", "steps")
"""What every client measures in training."""
NUMBER = Metric("training", "training", "lower")
"""How such a number is checked: finite and not negative."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A client's work, and what its node needs to do it.

    Args:
        work: of the client.
        token: of this request; the reply must have it.
        config: the federation's resolved configuration, TOML.
        wire: dtype of tensors.
    """

    work: Work
    token: str
    config: str
    wire: str

    @cached_property
    def encoded(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The work as the codec makes it."""
        return codec.encode(self.work)


def question(asked: Asked) -> RecordDict:
    """What a client's node is sent: the adapter at the client's own rank."""
    header, tensors = asked.encoded
    about = {WORK: json.dumps(header), "token": asked.token, "config": asked.config, "wire": asked.wire}
    return _records(WORK, about, tensors, asked.wire)


def bytes_of(asked: Asked) -> int:
    """Bytes of the tensors of what a node is sent, as they travel."""
    return sum(nbytes([tensor], _wire(_part(name), asked.wire)) for name, tensor in asked.encoded[1].items())


def read_question(records: RecordDict) -> Asked:
    """What the node was sent, on the node.

    Raises:
        FlowerError: it is no work of this version, or tensors are not those that the work has.
    """
    text, token, config, wire = texts(records, WORK, (WORK, "token", "config", "wire"))
    arrays = {f"{part}/{name}": one for part, own in records.array_records.items() for name, one in own.items()}

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in arrays:
            raise FlowerError(f"the work has no {shown(name)}")
        return from_array(name, arrays.pop(name), shape, _wire(_part(name), wire))

    work = read_value(Work, text, take)
    if arrays:
        raise FlowerError(f"the work has unknown tensors: {shown(sorted(arrays)[:3], 300)}")
    return Asked(work, token, config, wire)


def answer(outcome: Outcome, asked: Asked) -> RecordDict:
    """What a node replies: what was trained, and nothing else."""
    header, tensors = codec.encode(outcome)
    return _records(OUTCOME, {OUTCOME: json.dumps(header), "token": asked.token}, tensors, asked.wire)


def read_answer(records: RecordDict, asked: Asked, examples: int, metrics: Sequence[Metric]) -> Outcome:
    """The outcome of a reply, with nothing in it that was not asked for.

    Args:
        records: what came.
        asked: what for.
        examples: that the client said it has, which is its weight.
        metrics: of the task; what a client scored itself is one of them, within its bounds.

    Raises:
        FlowerError: it is no reply to this request, anything in it is not what was asked for, or it says why nothing
            was trained. Tensors are compared with what was sent before anything is allocated.
    """
    sent = asked.work.adapter.parts(asked.work.trains)
    expected = shapes_of(_within(TRAINED, codec.encode(Outcome(asked.work.client, sent))[1]))

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        if expected.get(name.removeprefix(f"{TRAINED}/")) != shape:
            raise FlowerError(f"the reply says that {shown(name)} has shape {shown(shape)}, which was not asked for")
        return torch.empty(shape, device="meta")  # values are looked at when all else is right

    outcome = read_outcome(records, asked, examples, metrics, take)
    if missing := sorted(sent.keys() - (outcome.trained or {}).keys()):
        raise FlowerError(f"the reply says nothing of {shown(missing[:3], 300)}")
    tensors = from_record(records.array_records.get(TRAINED, ArrayRecord()), expected, asked.wire)
    return replace(outcome, trained=dict(zip(sent, tensors.values(), strict=True)))


def read_outcome(
    records: RecordDict, asked: Asked, examples: int, metrics: Sequence[Metric], take: codec.Take
) -> Outcome:
    """What a reply says of its outcome in words and numbers, with nothing in it that was not asked for.

    Args:
        records: what came.
        asked: what for.
        examples: that the client said it has.
        metrics: of the task.
        take: the tensor of a name; raises `FlowerError` if it was not asked for.

    Raises:
        FlowerError: as `read_answer`.
    """
    work = asked.work
    text, token = texts(records, OUTCOME, (OUTCOME, "token"))
    if token != asked.token:
        raise FlowerError("the reply belongs to another request")
    outcome = read_value(Outcome, text, take)
    if outcome.client != work.client:
        raise FlowerError(f"the reply is of {shown(outcome.client)}, expected {work.client!r}")
    if outcome.trained is None:
        raise FlowerError(f"it trained nothing: {outcome.problem or 'no reason given'}")
    if outcome.weight != examples:
        raise FlowerError(f"its weight is {shown(outcome.weight)}, expected its number of examples, {examples}")
    found = {**outcome.metrics, **({} if outcome.seconds is None else {"seconds": outcome.seconds})}
    if missing := [name for name in (*MEASURED, "seconds") if name not in found]:
        raise FlowerError(f"the reply does not say its {' and '.join(missing)}")
    measured = {name: _measured(name, found[name], NUMBER) for name in MEASURED}
    own = {one.name: one for one in metrics if one.name in outcome.scores}
    scores = {name: _measured(f"{OWN}{name}", outcome.scores[name], metric) for name, metric in own.items()}
    return Outcome(work.client, outcome.trained, outcome.weight, measured, scores=scores, seconds=outcome.seconds)


def _measured(name: str, value: float, metric: Metric) -> float:
    """A number that a client may have measured: finite, and within the metric's bounds."""
    try:
        number = float(value)
    except OverflowError:
        raise FlowerError(f"its {name} is beyond any float, expected a finite number") from None
    if not metric.allows(number):
        raise FlowerError(f"its {name} is {shown(value)}, expected {metric.bounds}")
    return number


def texts(records: RecordDict, kind: str, names: Sequence[str]) -> list[str]:
    """What a message says in words.

    Raises:
        FlowerError: a word is missing, or none.
    """
    about = records.config_records.get(kind, ConfigRecord())
    texts = [text for name in names if isinstance(text := about.get(name), str)]
    if len(texts) != len(names):
        raise FlowerError(f"the message has no {kind}: have the server and the node the same version?")
    return texts


def read_value(kind: type[T], text: str, take: codec.Take) -> T:
    """A value from its header.

    Raises:
        FlowerError: it is none, or one of another version.
    """
    try:
        return codec.read(kind, json.loads(text), take)
    except (CodecError, ValueError, RecursionError) as error:
        raise FlowerError(f"the {kind.__name__.lower()} cannot be read: {error}") from None


def _records(kind: str, about: dict[str, str], tensors: Mapping[str, Tensor], wire: str) -> RecordDict:
    """A header and its tensors: those of one field of the value in a record of its name."""
    records = RecordDict({kind: ConfigRecord(dict(about))})
    for part in dict.fromkeys(map(_part, tensors)):
        records[part] = to_record(_within(part, tensors), _wire(part, wire))
    return records


def _part(name: str) -> str:
    """The field of the value that a tensor belongs to."""
    return name.partition("/")[0]


def _within(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one field, by their names in it."""
    return {name.partition("/")[2]: tensor for name, tensor in tensors.items() if _part(name) == part}


def _wire(part: str, wire: str) -> str:
    return "float32" if part == EXACT else wire
