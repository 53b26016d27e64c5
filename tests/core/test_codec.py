from __future__ import annotations

import pickle

import pytest
import torch

from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError


def adapter() -> Adapter:
    """A module named like a path, factors that share memory, and a whole tensor that is a view."""
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    return Adapter({"a/b": Factors(whole[:, :2], whole.T, 1 / 3)}, {"head": whole.T})


def test_an_adapter_comes_back_to_the_bit():
    header, tensors = codec.unpack(codec.pack(codec.describe(adapter()), codec.tensors_of(adapter(), "x")))
    assert codec.adapter_of(header, tensors, "x").identical(adapter())


def test_two_adapters_in_one_piece_are_told_apart():
    tensors = codec.tensors_of(adapter(), "x") | codec.tensors_of(adapter().prefix(1), "x2")
    again = codec.from_bytes(codec.to_bytes(tensors))
    assert codec.adapter_of(codec.describe(adapter()), again, "x").rank == 3
    assert codec.adapter_of(codec.describe(adapter()), again, "x2").rank == 1


def test_what_was_read_has_memory_of_its_own():
    data = codec.to_bytes({"x": torch.zeros(2)})
    first = codec.from_bytes(data)["x"]
    first += 1
    assert codec.from_bytes(data)["x"].tolist() == [0, 0]


def test_tensors_that_the_description_lacks_or_has_too_many_of_are_named():
    about, tensors = codec.describe(adapter()), codec.tensors_of(adapter(), "x")
    with pytest.raises(AdapterError, match=r"unknown: \['x/more'\]"):
        codec.adapter_of(about, tensors | {"x/more": torch.ones(1)}, "x")
    with pytest.raises(AdapterError, match=r"missing: \['x/head'\]"):
        codec.adapter_of(about, {k: t for k, t in tensors.items() if k != "x/head"}, "x")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"PRP1", b"PRP1\xff\xff\xff\xff{}", b"PRP1\0\0\0\2{}", b"PRP1\0\0\0\2[]" + codec.to_bytes({})),
        *(b"PRP1\0\0\0\1{" + codec.to_bytes({}), pickle.dumps({"x": 1}), codec.to_bytes({"x": torch.ones(3)})),
        codec.pack({}, {"x": torch.ones(3)})[:-1],
    ],
)
def test_whatever_else_comes_is_refused(data: bytes):
    with pytest.raises(AdapterError):
        codec.unpack(data)
