"""Whatever bytes and JSON a node sends, the functions that read it give a value or one kind of error."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.core.errors import FlowerError
from polyrank.flower.facts import RECORD, About, Place, read_answer
from polyrank.flower.node_ranks import read_declared
from polyrank.flower.nodes import Member
from polyrank.flower.records import from_record, to_record

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
@example(changed(clients=[{"examples": 1, "labels": []}]))
@example(changed(rank=True))
@example(changed(rank=10**4000))
@example(changed(client="a\nb"))
@example(changed(shapes={"q": [8, float("inf")]}))
def test_an_answer_is_read_or_refused(text: str):
    said = tried(lambda: read_answer(answered(text)))
    if said is not None:
        assert all(counts.examples > 0 for counts in said.clients)
        assert all(sum(counts.labels) == counts.examples for counts in said.clients if counts.labels)
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
    """10^7 examples as arrays were 177 bytes each; as counts they take no more than three do."""
    text = changed(clients=[{"examples": 10**7, "labels": [10**7 - 2, 2]}])
    read_answer(answered(text))
    tracemalloc.start()
    said = read_answer(answered(text))
    member = Member(1, "north", None, said.clients[0].examples, said.clients[0].labels)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert (member.examples, member.labels) == (10**7, (10**7 - 2, 2))


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
