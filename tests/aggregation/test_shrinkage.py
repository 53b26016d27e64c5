"""The accumulator by itself; its numbers are in tests/conformance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation import build
from polyrank.aggregation.method import Portable
from polyrank.errors import AdapterError
from polyrank.state import ClientUpdate, ServerState


def _adapter(value: float, rank: int) -> Adapter:
    return Adapter({"m": Factors(torch.full((rank, 3), value), torch.full((4, rank), value))})


def _seen(*ranks: int) -> Portable:
    """An accumulator of rank 3 that has seen a client of each rank."""
    found = build("shrinkage").start(ServerState(1, _adapter(0.0, 3), {}, {}))
    for k, rank in enumerate(ranks):
        found.add(ClientUpdate(f"client {k}", _adapter(k + 1.0, rank), k + 1.0))
    assert isinstance(found, Portable)
    return found


def test_rows_that_nobody_owns_do_not_travel():
    """Ranks 1 and 2 of 3."""
    tensors = _seen(1, 2).dump().tensors
    assert (tensors["modules/m/a"].shape, tensors["modules/m/b"].shape) == ((2, 3), (4, 2))
    assert tensors["modules/m/count"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", torch.tensor([3.0, -1.0]), "negative weight"),
        ("weight", torch.tensor([3.0, 0.0]), "negative weight"),
        ("count", torch.tensor([2.0, 0.0]), "without an owner"),
        ("apart", torch.tensor([[0.1, -0.1], [0.0, 0.0]]), "negative weight"),
        ("pairs", torch.tensor([0.1, float("nan")]), "NaN"),
        ("squares", torch.ones(3), "expected"),
        ("a", torch.zeros(2, 5), "expected"),
    ],
)
def test_sums_that_cannot_be_are_refused(name: str, value: Tensor, message: str):
    """A division by a weight of 0 would otherwise be found in the adapter, or nowhere."""
    dumped = _seen(1, 2).dump()
    changed = replace(dumped, tensors={**dumped.tensors, f"modules/m/{name}": value.double()})
    with pytest.raises(AdapterError, match=message):
        _seen().restore(changed)
