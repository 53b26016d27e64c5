"""The kernel by itself; what all its methods share is in tests/conformance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows, owners_mean_of
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Adding


def _adapter(value: float, rank: int = 2, dtype: torch.dtype = torch.float32, **dense: Tensor) -> Adapter:
    """A 4 x 3 layer."""
    factors = Factors(torch.full((rank, 3), value, dtype=dtype), torch.full((4, rank), value, dtype=dtype))
    return Adapter({"m": factors}, dense)


def _server(**dense: Tensor) -> ServerState:
    return ServerState(1, _adapter(-1.0, **dense), {}, {})


class Looking(RowMethod):
    """A method of the test's own."""

    def __init__(self, look: Callable[[Rows], Tensor] = Rows.owners_mean, donors: bool = False, which: str = "ab"):
        self.look, self.donors, self.which = look, donors, which

    def combine(self, rows: Rows) -> Tensor:
        return self.look(rows)

    def has_donors(self) -> bool:
        return self.donors

    def factors(self, _server: ServerState) -> str:
        return self.which


def _mean(server: ServerState) -> Adding:
    return Adding(Looking(), server)


def test_a_dense_tensor_is_averaged_over_who_sent_it():
    """Weights 1, 3, 4: the head is (1 * 2 + 3 * 6) / 4 = 5, the third client keeps its own; nobody sends the bias."""
    accumulator = _mean(_server(head=torch.zeros(2), bias=torch.full((2,), 7.0)))
    accumulator.add(ClientUpdate("ann", _adapter(1.0, head=torch.full((2,), 2.0)), 1.0))
    accumulator.add(ClientUpdate("bob", _adapter(1.0, head=torch.full((2,), 6.0)), 3.0))
    accumulator.add(ClientUpdate("cem", _adapter(1.0), 4.0))
    dense = accumulator.finish().adapter.dense
    assert dense["head"].tolist() == [5.0, 5.0]
    assert dense["bias"].tolist() == [7.0, 7.0]


def test_donors_are_the_highest_rank_that_was_asked_whatever_comes_first():
    """Ranks 1, 2, 2 with rows 1 of 5 and 9 and weights 1 and 3: donated (5 + 27) / 4 = 8; row 2 has no donor."""
    seen: list[Tensor] = []

    def look(rows: Rows) -> Tensor:
        assert rows.donated is not None
        seen.append(rows.donated[:, 0])
        return rows.owners_mean()

    server = ServerState(1, _adapter(-1.0, rank=3), {}, {})
    low, five, nine = (
        ClientUpdate(name, _adapter(value, rank=rank), weight)
        for name, value, rank, weight in [("low", 100.0, 1, 50.0), ("five", 5.0, 2, 1.0), ("nine", 9.0, 2, 3.0)]
    )
    for first, second in [([low, five], [nine]), ([five, nine], [low]), ([low], [nine, five]), ([], [nine, low, five])]:
        left, right = (Adding(Looking(look, donors=True), server, [*first, *second]) for _ in range(2))
        for update in first:
            left.add(update)
        for update in second:
            right.add(update)
        left.merge(right)
        left.finish()
    assert [rows.tolist() for rows in seen] == [[8.0, 8.0, -1.0]] * 8  # four orders, two factors


def test_without_donors_nothing_is_donated():
    def look(rows: Rows) -> Tensor:
        assert rows.donated is None
        return rows.owners_mean()

    accumulator = Adding(Looking(look), _server())
    accumulator.add(ClientUpdate("ann", _adapter(1.0), 1.0))
    accumulator.finish()


def test_clients_may_send_a_wider_dtype_than_the_server_has():
    """In units u = 2^-7 of bfloat16 above 1: 3/8 and 3/4 have the mean 9/16, which is rounded to 1.

    Rounded before the sum they are 0 and 1, whose mean, 1/2, is rounded to the even 0.
    """
    server = ServerState(1, _adapter(-1.0, dtype=torch.bfloat16), {}, {})
    accumulator = _mean(server)
    for name, units in [("ann", 3 / 8), ("bob", 3 / 4)]:
        accumulator.add(ClientUpdate(name, _adapter(1 + units * 2**-7), 1.0))
    factors = accumulator.finish().adapter.modules["m"]
    assert factors.a.dtype == factors.b.dtype == torch.bfloat16
    assert factors.a.unique().tolist() == factors.b.unique().tolist() == [1 + 2**-7]


def test_results_are_contiguous():
    accumulator = _mean(_server())
    accumulator.add(ClientUpdate("ann", _adapter(1.0), 1.0))
    assert all(tensor.is_contiguous() for _, tensor in accumulator.finish().adapter.tensors())


@pytest.mark.parametrize("which", ["a", "b"])
def test_the_factor_that_is_not_averaged_is_the_previous_one(which: str):
    """The very tensor: 4 is sent for both, -1 was there."""
    server = _server()
    accumulator = Adding(Looking(which=which), server)
    accumulator.add(ClientUpdate("ann", _adapter(4.0), 1.0))
    factors, before = accumulator.finish().adapter.modules["m"], server.adapter.modules["m"]
    assert (factors.a is before.a) == (which == "b")
    assert (factors.b is before.b) == (which == "a")
    assert getattr(factors, which).unique().tolist() == [4.0]


def test_rows_know_the_other_factor():
    """A's rows see the previous columns of B, and the other way round."""
    seen: list[list[int]] = []

    def look(rows: Rows) -> Tensor:
        assert rows.partner.shape[0] == rows.previous.shape[0]
        seen.append(list(rows.partner.shape))
        return rows.owners_mean()

    accumulator = Adding(Looking(look), _server())
    accumulator.add(ClientUpdate("ann", _adapter(1.0), 1.0))
    accumulator.finish()
    assert seen == [[2, 4], [2, 3]]


def test_the_base_change_is_handed_on():
    server = replace(_server(), base_change=_adapter(1.0, rank=1))
    assert _mean(server).finish().base_change is server.base_change


def test_owners_mean_of_factors_that_are_all_there():
    """Weights 1 and 3, ranks 2 and 1: row 0 is (2 + 3 * 6) / 4 = 5, row 1 the first one's 2, row 2 as it was."""
    previous = _adapter(-1.0, rank=3).modules["m"]
    found = owners_mean_of(previous, [(1.0, _adapter(2.0).modules["m"]), (3.0, _adapter(6.0, rank=1).modules["m"])])
    assert found.a[:, 0].tolist() == found.b[0].tolist() == [5.0, 2.0, -1.0]
