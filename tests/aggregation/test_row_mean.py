"""The kernel by itself; what all its methods share is in tests/conformance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.row_mean import RowMean, Rows
from polyrank.errors import AdapterError
from polyrank.state import ClientUpdate, ServerState


def _adapter(value: float, rank: int = 2, dtype: torch.dtype = torch.float32, **dense: Tensor) -> Adapter:
    """A 4 x 3 layer."""
    factors = Factors(torch.full((rank, 3), value, dtype=dtype), torch.full((4, rank), value, dtype=dtype))
    return Adapter({"m": factors}, dense)


def _server(**dense: Tensor) -> ServerState:
    return ServerState(1, _adapter(-1.0, **dense), {}, {})


def _mean(server: ServerState) -> RowMean:
    return RowMean(server, Rows.owners_mean)


WRONG = {
    "module": (
        Adapter({"other": _adapter(1.0).modules["m"]}),
        "client ann sent the module 'other', which the global adapter lacks",
    ),
    "rank": (_adapter(1.0, rank=3), "client ann sent rank 3 for m; the global adapter has rank 2"),
    "d_in that would be broadcast": (
        Adapter({"m": Factors(torch.ones(2, 1), torch.ones(4, 2))}),
        "client ann sent a 4 x 1 update for m; the global adapter's is 4 x 3",
    ),
    "d_out that would be broadcast": (
        Adapter({"m": Factors(torch.ones(2, 3), torch.ones(1, 2))}),
        "client ann sent a 1 x 3 update for m; the global adapter's is 4 x 3",
    ),
    "layer the other way round": (
        Adapter({"m": Factors(torch.ones(2, 4), torch.ones(3, 2))}),
        "client ann sent a 3 x 4 update for m; the global adapter's is 4 x 3",
    ),
    "dense name": (
        _adapter(1.0, tail=torch.ones(3)),
        "client ann sent the tensor 'tail', which the global adapter lacks",
    ),
    "dense shape that would be broadcast": (
        _adapter(1.0, head=torch.ones(1)),
        r"client ann sent head as \(1,\); expected \(3,\)",
    ),
}


@pytest.mark.parametrize(("adapter", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused_before_any_of_it_is_added(adapter: Adapter, message: str):
    server = _server(head=torch.zeros(3))
    accumulator = _mean(server)
    good = _adapter(4.0, head=torch.ones(3))
    accumulator.add(ClientUpdate("bob", good, 1.0))
    mixed = Adapter({"m": good.modules["m"].map(lambda t: 9 * t)} | dict(adapter.modules), adapter.dense)
    with pytest.raises(AdapterError, match=message):
        accumulator.add(ClientUpdate("ann", mixed, 1.0))
    assert accumulator.finish().adapter.identical(good)


def test_a_dense_tensor_is_averaged_over_who_sent_it():
    """Weights 1, 3, 4: the head is (1 * 2 + 3 * 6) / 4 = 5, the third client keeps its own; nobody sends the bias."""
    accumulator = _mean(_server(head=torch.zeros(2), bias=torch.full((2,), 7.0)))
    accumulator.add(ClientUpdate("ann", _adapter(1.0, head=torch.full((2,), 2.0)), 1.0))
    accumulator.add(ClientUpdate("bob", _adapter(1.0, head=torch.full((2,), 6.0)), 3.0))
    accumulator.add(ClientUpdate("cem", _adapter(1.0), 4.0))
    dense = accumulator.finish().adapter.dense
    assert dense["head"].tolist() == [5.0, 5.0]
    assert dense["bias"].tolist() == [7.0, 7.0]


def test_donors_are_the_highest_rank_present_whatever_comes_first():
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
        left, right = (RowMean(server, look, donors=True) for _ in range(2))
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

    accumulator = RowMean(_server(), look)
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
