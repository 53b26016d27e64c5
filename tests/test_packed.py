from __future__ import annotations

import pickle

import pytest
import torch

from polyrank import packed
from polyrank.adapter import Adapter, Factors
from polyrank.errors import AdapterError


def adapter() -> Adapter:
    """A module named like a path, factors that share memory, and a whole tensor that is a view."""
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    return Adapter({"a/b": Factors(whole[:, :2], whole.T, 1 / 3)}, {"head": whole.T})


def test_an_adapter_comes_back_to_the_bit():
    header, tensors = packed.unpack(packed.pack(packed.describe(adapter()), packed.tensors_of(adapter(), "x")))
    assert packed.adapter_of(header, tensors, "x").identical(adapter())


def test_two_adapters_in_one_piece_are_told_apart():
    tensors = packed.tensors_of(adapter(), "x") | packed.tensors_of(adapter().prefix(1), "x2")
    again = packed.from_bytes(packed.to_bytes(tensors))
    assert packed.adapter_of(packed.describe(adapter()), again, "x").rank == 3
    assert packed.adapter_of(packed.describe(adapter()), again, "x2").rank == 1


def test_what_was_read_has_memory_of_its_own():
    data = packed.to_bytes({"x": torch.zeros(2)})
    first = packed.from_bytes(data)["x"]
    first += 1
    assert packed.from_bytes(data)["x"].tolist() == [0, 0]


def test_tensors_that_the_description_lacks_or_has_too_many_of_are_named():
    about, tensors = packed.describe(adapter()), packed.tensors_of(adapter(), "x")
    with pytest.raises(AdapterError, match=r"unknown: \['x/more'\]"):
        packed.adapter_of(about, tensors | {"x/more": torch.ones(1)}, "x")
    with pytest.raises(AdapterError, match=r"missing: \['x/head'\]"):
        packed.adapter_of(about, {k: t for k, t in tensors.items() if k != "x/head"}, "x")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"PRP1", b"PRP1\xff\xff\xff\xff{}", b"PRP1\0\0\0\2{}", b"PRP1\0\0\0\2[]" + packed.to_bytes({})),
        *(b"PRP1\0\0\0\1{" + packed.to_bytes({}), pickle.dumps({"x": 1}), packed.to_bytes({"x": torch.ones(3)})),
        packed.pack({}, {"x": torch.ones(3)})[:-1],
    ],
)
def test_whatever_else_comes_is_refused(data: bytes):
    with pytest.raises(AdapterError):
        packed.unpack(data)
