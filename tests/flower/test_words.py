"""Whatever bytes and JSON a node sends, the functions that read it give a value or one kind of error."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import FlowerError
from polyrank.core.state import ClientUpdate
from polyrank.flower.facts import RECORD, About, Place, read_answer
from polyrank.flower.messages import ADAPTER, METRICS, REPLY, read_reply
from polyrank.flower.node_ranks import read_declared
from polyrank.flower.records import from_record, to_record
from polyrank.tasks.task import Elsewhere, Examples
from polyrank.training.work import Job
from tests.models import TASK

T = TypeVar("T")

SHAPE = {"x": (2, 3)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
GOOD: dict[str, Any] = {
    **{"client": "north", "place": None, "step": None, "rank": 4, "shapes": {"q": [8, 8]}},
    "clients": [{"examples": 3, "labels": [1, 2]}],
}
SCALAR = st.integers() | st.floats() | st.just(10**400) | st.just(-(10**5000))


def tried(read: Callable[[], T]) -> T | None:
    """What it gives; None where it refuses, in a line that is short enough to read."""
    try:
        return read()
    except FlowerError as error:
        said = str(error)
    assert 0 < len(said) < 1000
    return None


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def header(text: str) -> bytes:
    body = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def record(data: bytes) -> ArrayRecord:
    made = Array(np.zeros(1, dtype=np.float32))
    made.data = data
    return ArrayRecord({"x": made})


ANNOUNCED = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",  # and no values
    "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': '<f4', 'fortran_order': 3, 'shape': (2, 3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}",
    "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': 'V99999999999999999999', 'fortran_order': False, 'shape': (2, 3)}",
    "(" * 900,
    "{" + "[" * 400 + "]" * 400 + ": 1}",
    "{'a': 1" + "0" * 900 + "}",
)


@pytest.mark.parametrize("text", ANNOUNCED)
def test_an_array_is_what_its_header_announces_or_refused_before_anything_is_made_of_it(text: str):
    """10^15 numbers of 4 bytes are 4 PB: the message has 82 bytes, and no more than 1 MiB is needed to refuse it."""
    tracemalloc.start()
    with pytest.raises(FlowerError):
        from_record(record(header(text)), SHAPE, "float32")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@given(
    st.binary(max_size=400)
    | st.binary(max_size=200).map(lambda more: b"\x93NUMPY" + more)
    | st.text().map(lambda text: header(text.encode("latin1", "replace").decode("latin1")[:60000]))
)
@example(npy(np.zeros((2, 3), dtype=np.float32)))
@example(npy(np.zeros((2, 3), dtype=np.float32))[:-1])
@example(npy(np.zeros((2, 3), dtype=np.float32)) + b"x")
def test_bytes_are_the_expected_array_or_refused(data: bytes):
    found = tried(lambda: from_record(record(data), SHAPE, "float32"))
    assert found is None or found["x"].shape == (2, 3)


@pytest.mark.parametrize("values", [np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2).T])
def test_arrays_by_rows_and_by_columns_are_read(values: np.ndarray):
    """numpy writes a transposed array as it lies in memory and says so in the header."""
    assert np.array_equal(from_record(record(npy(values.astype(np.float32))), SHAPE, "float32")["x"].numpy(), values)


def test_what_is_sent_is_read():
    tensors = {"x": torch.randn(2, 3), "y": torch.randn(())}
    for wire in ("float32", "bfloat16", "float16"):
        found = from_record(to_record(tensors, wire), {"x": (2, 3), "y": ()}, wire)
        assert all(torch.equal(found[n].to(t.dtype), t.to(getattr(torch, wire)).float()) for n, t in tensors.items())


def answered(text: str) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({"about": text})})


def changed(**parts: Any) -> str:
    return json.dumps({**GOOD, **parts})


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, JSON)).map(lambda parts: changed(**parts))
    | st.fixed_dictionaries({"examples": JSON, "labels": JSON}).map(lambda counts: changed(clients=[counts]))
)
@example("[" * 100_000)
@example('{"client": ' + "9" * 100_000 + "}")
@example("\ud800")
@example(changed(rank=True))
@example(changed(rank=10**4000))
@example(changed(client="a\nb"))
@example(changed(shapes={"q": [8, float("inf")]}))
def test_an_answer_is_read_or_refused(text: str):
    said = tried(lambda: read_answer(answered(text)))
    if said is not None:
        assert all(sum(counts.labels) == counts.examples > 0 for counts in said.clients)
        assert said.rank is None or type(said.rank) is int


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"clients": [{"examples": 10**9, "labels": [10**9, 0]}]}, "1000000000 examples, expected at most 10000000"),
        ({"clients": [{"examples": 3, "labels": [1, 1]}]}, "3 examples, and 2 by label"),
        ({"clients": [{"examples": 3, "labels": [4, -1]}]}, "clients.0.labels.1: Input should be greater than"),
        ({"clients": [{"examples": 0, "labels": [0, 0]}]}, "clients.0.examples"),
        ({"clients": [{"examples": True, "labels": [1]}]}, "valid integer"),
        ({"rank": 2.0}, "rank: Input should be a valid integer"),
        ({"rank": 0}, "rank"),
        ({"client": "x" * 10**6}, "at most 200 characters"),
        ({"place": 0}, "not both"),
        ({"clients": GOOD["clients"] * 2}, "counts 2 clients"),
        ({"more": 1}, "more: Extra"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(parts: dict[str, Any], reason: str):
    assert isinstance(read_answer(answered(changed())), About)
    with pytest.raises(FlowerError, match=reason):
        read_answer(answered(changed(**parts)))


def test_a_claim_is_kept_as_a_count():
    """10^9 examples as arrays were 177 bytes each; as counts they take no more than three do."""
    tracemalloc.start()
    many = Elsewhere.of([10**9, 2])
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()
    assert (len(many), many.kind_counts(3)) == (10**9 + 2, [10**9, 2, 0])


JOB = Job(
    "north",
    Adapter({"q": Factors(torch.zeros(2, 3), torch.zeros(4, 2))}, {"head": torch.zeros(2)}),
    Examples((), np.empty(0, dtype=np.int64), 0),
    3.0,
    seed=0,
)
NUMBERS = {"loss": 0.5, "steps": 1.0, "seconds": 2.0, "weight": 3.0}


def replied(**numbers: Any) -> RecordDict:
    metrics = MetricRecord(NUMBERS)
    metrics.__dict__["_data"].update(numbers)  # as a node could that is not held up by Flower's own checks
    return RecordDict(
        {
            ADAPTER: to_record(dict(JOB.adapter.tensors()), "float32"),
            REPLY: ConfigRecord({"token": "t", "client": "north"}),
            METRICS: metrics,
        }
    )


def read(records: RecordDict) -> ClientUpdate:
    return read_reply(records, replace(JOB), token="t", wire="float32", examples=3, metrics=TASK.metrics)


@given(st.dictionaries(st.sampled_from([*NUMBERS, "own/accuracy", "own/loss"]), JSON | SCALAR))
def test_a_replys_numbers_are_read_or_refused(numbers: dict[str, Any]):
    update = tried(lambda: read(replied(**numbers)))
    assert update is None or all(math.isfinite(value) for value in update.metrics.values())


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"seconds": -1.0}, "its seconds is -1.0, expected a finite number of 0 or more"),
        ({"loss": -0.1}, "its loss is -0.1"),
        ({"own/accuracy": 1.5}, "its own/accuracy is 1.5, expected a number from 0 to 1"),
        ({"own/macro_f1": float("nan")}, "its own/macro_f1 is nan"),
        ({"steps": 10**400}, "its steps is beyond any float"),
    ],
)
def test_a_number_that_nobody_can_have_measured_is_refused(numbers: dict[str, float], reason: str):
    read(replied(**{"own/accuracy": 1.0, "own/loss": 0.0}))
    with pytest.raises(FlowerError, match=reason):
        read(replied(**numbers))


@given(JSON | SCALAR | st.binary())
def test_a_declared_rank_is_read_or_refused(value: Any):
    own = ConfigRecord()
    own.__dict__["_data"]["lora-rank"] = value
    members = tried(lambda: read_declared(1, RecordDict({"rank": own})))
    assert members is None or value is None or members[0].rank == value >= 1


def test_places_share_all_clients_out():
    """Seven clients on three nodes: 0, 3, 6; 1, 4; 2, 5. On nine nodes two have none."""
    names = [f"c{i}" for i in range(7)]
    assert [list(Place(i, 3).of(names)) for i in range(3)] == [["c0", "c3", "c6"], ["c1", "c4"], ["c2", "c5"]]
    assert [list(Place(i, 9).of(names)) for i in (6, 7)] == [["c6"], []]
    assert list(Place(2).of(names)) == ["c2"]
    for wrong in (Place(-1), Place(3, 3)):
        with pytest.raises(FlowerError, match="partition-id is"):
            wrong.of(names)
