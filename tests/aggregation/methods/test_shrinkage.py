"""The sums by themselves; their numbers are in tests/conformance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyrank.aggregation import build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Adding


def _adapter(value: float, rank: int) -> Adapter:
    return Adapter({"m": Factors(torch.full((rank, 3), value), torch.full((4, rank), value))})


def _seen(*ranks: int) -> Adding:
    """Sums of rank 3 that have seen a client of each rank."""
    found = Adding(build("shrinkage"), ServerState(1, _adapter(0.0, 3), {}, {}))
    for k, rank in enumerate(ranks):
        found.add(ClientUpdate(f"client {k}", _adapter(k + 1.0, rank), k + 1.0))
    return found


def test_what_travels_has_a_fixed_shape():
    """Ranks 1 and 2 of 3: as for no client at all; the owners of the rows are 2, 1 and none."""
    some, none = _seen(1, 2).sums.partial().tensors, _seen().sums.partial().tensors
    assert {name: t.shape for name, t in some.items()} == {name: t.shape for name, t in none.items()}
    assert some["modules/m/count"].tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", torch.tensor([3.0, -1.0, 0.0]), "negative weight"),
        ("weight", torch.tensor([3.0, 0.0, 0.0]), "without an owner"),
        ("count", torch.tensor([2.0, 0.0, 1.0]), "without an owner"),
        ("count", torch.tensor([2.0, 0.5, 0.0]), "without an owner"),
        ("apart", torch.tensor([[0.1, -0.1, 0.0], [0.0, 0.0, 0.0]]), "negative weight"),
        ("pairs", torch.tensor([0.1, float("nan"), 0.0]), "NaN"),
        ("squares", torch.ones(2), "expected"),
        ("a", torch.zeros(3, 5), "expected"),
    ],
)
def test_sums_that_cannot_be_are_refused(name: str, value: Tensor, message: str):
    """A division by a weight of 0 would otherwise be found in the adapter, or nowhere."""
    whole = _seen(1, 2).sums.partial()
    changed = replace(whole, tensors={**whole.tensors, f"modules/m/{name}": value.double()})
    with pytest.raises(AdapterError, match=message):
        _seen().kernel.received(changed)
