from __future__ import annotations

import pytest
import torch

from polyrank.aggregation import build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Adding


def _adapter(q: int, v: int) -> Adapter:
    ranks = {"q": q, "v": v}
    return Adapter({name: Factors(torch.ones(r, 3), torch.ones(4, r)) for name, r in ranks.items()})


@pytest.mark.parametrize("rank", [1, 3], ids=["below", "above"])
def test_unequal_ranks_name_the_client_the_module_and_both_ranks(rank: int):
    accumulator = Adding(build("fedavg"), ServerState(1, _adapter(2, 2), {}, {}))
    accumulator.add(ClientUpdate("ann", _adapter(2, 2), 1.0))
    with pytest.raises(AdapterError, match=rf"client bob sent rank {rank} for v, expected 2; use replication"):
        accumulator.add(ClientUpdate("bob", _adapter(2, rank), 1.0))


def test_an_unknown_module_is_not_called_an_unequal_rank():
    accumulator = Adding(build("fedavg"), ServerState(1, _adapter(2, 2), {}, {}))
    other = Adapter({"k": Factors(torch.ones(2, 3), torch.ones(4, 2))})
    with pytest.raises(AdapterError, match="client ann sent the module 'k', which the global adapter lacks"):
        accumulator.add(ClientUpdate("ann", other, 1.0))


def test_is_the_weighted_mean_of_the_factors():
    """Weights 1 and 3, rows 0 and 8: (0 + 24) / 4 = 6."""
    server = ServerState(1, _adapter(2, 2), {}, {})
    accumulator = Adding(build("fedavg"), server)
    accumulator.add(ClientUpdate("ann", _adapter(2, 2).map(torch.zeros_like), 1.0))
    accumulator.add(ClientUpdate("bob", _adapter(2, 2).map(lambda t: 8 * t), 3.0))
    for name, tensor in accumulator.finish().adapter.tensors():
        assert torch.equal(tensor, torch.full_like(tensor, 6.0)), name
