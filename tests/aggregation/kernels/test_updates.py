from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polyrank.aggregation import METHODS, build
from polyrank.aggregation.kernels.updates import check_update
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Adding


def _adapter(value: float, rank: int = 2, **dense: Tensor) -> Adapter:
    """A 4 x 3 layer."""
    return Adapter({"m": Factors(torch.full((rank, 3), value), torch.full((4, rank), value))}, dense)


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
wrong = pytest.mark.parametrize(("adapter", "message"), WRONG.values(), ids=WRONG.keys())


@wrong
def test_what_does_not_fit_is_named(adapter: Adapter, message: str):
    with pytest.raises(AdapterError, match=message):
        check_update(ClientUpdate("ann", adapter, 1.0), _adapter(-1.0, head=torch.zeros(3)))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_none(weight: float):
    with pytest.raises(AdapterError, match=f"client ann has the weight {weight}; expected a number of 0 or more"):
        check_update(ClientUpdate("ann", _adapter(1.0), weight), _adapter(1.0))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 1e-300, 5.0])
def test_what_fits_passes(rank: int, weight: float):
    """A lower rank, no head, another dtype."""
    sent = _adapter(1.0, rank).map(lambda t: t.to(torch.bfloat16))
    check_update(ClientUpdate("ann", sent, weight), _adapter(1.0, head=torch.zeros(3)))


@wrong
@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_it_before_any_of_it_is_added(name: str, adapter: Adapter, message: str):
    """The good module comes first and the head is good in most: the result is that of the good client alone."""
    server = ServerState(0, _adapter(-1.0, head=torch.zeros(3)), {}, {})
    good = _adapter(4.0, head=torch.ones(3))
    accumulator, alone = Adding(build(name), server), Adding(build(name), server)
    for it in (accumulator, alone):
        it.add(ClientUpdate("bob", good, 1.0, excess=0.0))
    mixed = Adapter({"m": good.modules["m"].map(lambda t: 9 * t)} | dict(adapter.modules), adapter.dense)
    text = message.replace("; the global adapter has rank 2", "") if METHODS[name].info.equal_ranks else message
    with pytest.raises(AdapterError, match=text):
        accumulator.add(ClientUpdate("ann", mixed, 1.0, excess=0.0))
    found, expected = accumulator.finish(), alone.finish()
    assert found.adapter.identical(expected.adapter)
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_a_weight_below_zero(name: str):
    server = ServerState(0, _adapter(-1.0), {}, {})
    with pytest.raises(AdapterError, match="client ann has the weight -1"):
        Adding(build(name), server).add(ClientUpdate("ann", _adapter(1.0), -1.0, excess=0.0))
