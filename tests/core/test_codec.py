from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, CodecError


def adapter() -> Adapter:
    """A module named like a path, factors that share memory, and a whole tensor that is a view."""
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    return Adapter({"a/b": Factors(whole[:, :2], whole.T, 1 / 3)}, {"head": whole.T})


@dataclass(frozen=True)
class Inner:
    kept: int
    share: float


@dataclass(frozen=True, eq=False)
class Value:
    """One of everything."""

    name: str
    first: Adapter
    second: Adapter | None = None
    parts: frozenset[str] = frozenset()
    inner: Inner | None = None
    sizes: tuple[int, ...] = ()
    numbers: Mapping[str, float | int] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    several: Mapping[str, Inner] = field(default_factory=dict)


VALUE = Value(
    "x",
    adapter(),
    adapter().prefix(1),
    frozenset({"b", "a"}),
    Inner(3, 1 / 3),
    (1, 2),
    {"loss": 0.1, "steps": 4, "bad": math.nan, "worse": math.inf},
    {"a": {"b/c": torch.ones(2)}, "a/b": {"c": torch.zeros(3, dtype=torch.float64)}, "": {}},
    {"k": Inner(0, 0.5)},
)


def again(value: Value) -> Value:
    return codec.loads(Value, codec.dumps(value))


def test_a_value_comes_back_to_the_bit():
    found = again(VALUE)
    assert found.first.identical(VALUE.first)
    assert found.second is not None
    assert found.second.identical(adapter().prefix(1))
    assert (found.name, found.parts, found.inner, found.sizes) == ("x", VALUE.parts, Inner(3, 1 / 3), (1, 2))
    assert str(found.numbers) == str(VALUE.numbers)  # NaN is not equal to itself
    assert found.several == VALUE.several


def test_what_is_not_there_stays_away():
    found = again(Value("y", adapter()))
    assert (found.second, found.inner, dict(found.own)) == (None, None, {})


def test_names_with_slashes_are_told_apart():
    """``a`` with ``b/c`` and ``a/b`` with ``c`` would both be ``own/a/b/c``."""
    own = again(VALUE).own
    assert {client: {name: t.tolist() for name, t in inner.items()} for client, inner in own.items()} == {
        "a": {"b/c": [1, 1]},
        "a/b": {"c": [0, 0, 0]},
        "": {},
    }


def test_what_was_read_has_memory_of_its_own():
    data = codec.to_bytes({"x": torch.zeros(2)})
    first = codec.from_bytes(data)["x"]
    first += 1
    assert codec.from_bytes(data)["x"].tolist() == [0, 0]


def changed(*way: str, to: object) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(json.dumps(codec.encode(VALUE)[0]))
    inner = header
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = to
    return header


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({}, "it lacks first, inner, name"),
        (changed("more", to=1), "more in it is unknown"),
        (changed("name", to=1), "name: Input should be a valid string"),
        (changed("inner", "kept", to="3"), "inner.kept: Input should be a valid integer"),
        (changed("inner", "kept", to=True), "inner.kept"),
        (changed("inner", "more", to=1), "inner lacks nothing, and more in it is unknown"),
        (changed("sizes", to={}), "sizes"),
        (changed("first", to=None), "first"),
        (changed("first", "modules", to={"a/b": [4, -3, 2, 1.0]}), "first.modules.a/b.1"),
        (changed("first", "modules", to={"a/b": [4, 3, 2, math.nan]}), "first: the scale of factors is nan"),
        (changed("first", "modules", to={"a/b": [4, 3, 3, 1.0]}), "shape"),
        (changed("first", "modules", to={}), "first/a/b.a, first/a/b.b is unknown"),
        (changed("first", "dense", to={"head": [4, 3], "more": [1]}), "first/more is missing"),
        (changed("own", to=[1]), "own"),
        ([], "it: Input should be an object"),
    ],
)
def test_a_header_of_another_form_is_refused_with_the_place(header: object, said: str):
    with pytest.raises(CodecError) as found:
        codec.decode(Value, header, codec.encode(VALUE)[1])
    assert said in str(found.value)


def test_json_as_deep_as_python_reads_it_is_refused():
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(CodecError):
        codec.decode(Value, changed("sizes", to=deep), codec.encode(VALUE)[1])


def test_tensors_are_asked_for_by_shape_before_they_are_there():
    """Whoever carries them can compare the shape with what it expected and allocate nothing."""
    asked: dict[str, tuple[int, ...]] = {}

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        asked[name] = shape
        raise CodecError("no")

    with pytest.raises(CodecError, match="no"):
        codec.read(Value, codec.encode(VALUE)[0], take)
    assert asked == {"first/a/b.a": (3, 2)}


def test_what_many_have_is_written_once():
    """Three names of one tensor of 4 MB are 4 MB; equal values of another tensor are that tensor's own."""
    one = torch.zeros(1000, 1000)
    tensors = {"a": one, "b": one, "c": one, "d": torch.zeros(1)}
    data = codec.pack({"x": 1}, tensors)
    assert len(data) < 4_010_000
    header, found = codec.unpack(data)
    assert header == {"x": 1}
    assert found.keys() == tensors.keys()
    assert found["a"] is found["b"] is found["c"]


@pytest.mark.parametrize("shared", [{"a": "x"}, {"y": "z"}, ["y"], {"y": 1}, None])
def test_a_name_of_no_tensor_is_refused(shared: object):
    with pytest.raises(CodecError):
        codec.unpack(codec.pack({codec.SHARED: shared}, {"x": torch.ones(1), "a": torch.ones(1)}))


def test_a_new_field_is_known_without_a_change_here():
    more = dataclasses.make_dataclass("More", [("extra", Tensor | None, None)], bases=(Value,), frozen=True, eq=False)
    value = more("z", adapter(), extra=torch.ones(2, 2))
    found = codec.loads(more, codec.dumps(value))
    assert found.extra.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"PRP2", b"PRP2\xff\xff\xff\xff{}", b"PRP2\0\0\0\2{}", b"PRP2\0\0\0\2[]" + codec.to_bytes({})),
        *(b"PRP2\0\0\0\1{" + codec.to_bytes({}), pickle.dumps({"x": 1}), codec.to_bytes({"x": torch.ones(3)})),
        *(codec.pack({}, {"x": torch.ones(3)})[:-1], b"PRP1" + codec.pack({}, {})[4:]),
    ],
)
def test_whatever_else_comes_is_refused(data: bytes):
    with pytest.raises(AdapterError):
        codec.unpack(data)


def test_what_came_beside_is_not_written():
    """By identity: a tensor of the same numbers that is another one is written."""
    shared, own = torch.randn(50, 50), torch.randn(2)
    tensors = {"x": shared, "y": own, "z": shared, "w": shared.clone()}
    data = codec.pack({"n": 1}, tensors, {id(shared): "there/s"})
    assert len(data) < 1.5 * shared.numel() * 4
    header, found = codec.unpack(data, {"there/s": shared})
    assert header == {"n": 1}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with pytest.raises(CodecError, match="said to be another tensor"):
        codec.unpack(data)
