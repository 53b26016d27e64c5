"""Exactness over 16 bits: against the products of what the clients really had and sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from polyrank.aggregation import Method, build
from polyrank.aggregation.as_sent import AsSent
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import read_outs
from polyrank.federation.tree import aggregate
from polyrank.flower.records import WIRE, from_record, shapes_of, to_record
from tests.conformance.oracle import plain, target

RANKS = {"ann": 2, "bob": 6, "cem": 4, "dee": 6}
WEIGHTS = {"ann": 30.0, "bob": 5.0, "cem": 12.0, "dee": 7.5}


def server(number: int) -> ServerState:
    """Rank 6, two layers, after so many rounds."""
    draw = torch.Generator().manual_seed(number)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    modules = {"q": Factors(normal(6, 20), normal(16, 6), 2.0), "v": Factors(normal(6, 12), normal(24, 6), 0.75)}
    scales = dict.fromkeys(RANKS, 2.0)
    return ServerState(number, Adapter(modules, {"head": normal(3, 16)}), RANKS, scales)


def over(wire: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return from_record(to_record(tensors, wire), shapes_of(tensors), wire)


def one_round(state: ServerState, method: Method, wire: str) -> tuple[Adapter, list[ClientUpdate]]:
    """The server's adapter after a round, and what the clients had at its end, in the bits that travelled."""
    draw = torch.Generator().manual_seed(1)
    trains = method.parts(state.round + 1).trains
    sent = read_outs(state, RANKS, method)
    replies, trained = [], []
    for client, download in sent.items():
        began = download.adapter.replaced(over(wire, dict(download.adapter.tensors())))
        grown = {name: t + torch.randn(t.shape, generator=draw) / 3 for name, t in began.parts(trains).items()}
        back = over(wire, grown)
        trained.append(ClientUpdate(client, began.replaced(back), WEIGHTS[client]))
        replies.append(replace(trained[-1], adapter=download.adapter.replaced(back)))  # as `read_answer` does
    return aggregate(state, replies, method, uniform=False, local_head=False).state.adapter, trained


def off(found: Adapter, trained: list[ClientUpdate]) -> float:
    """Distance from the mean of the clients' products, relative to it."""
    wanted = target(trained)
    gap = sum(np.linalg.norm(plain(found).delta(name) - wanted[name]) ** 2 for name in wanted)
    return float(np.sqrt(gap / sum(np.linalg.norm(x) ** 2 for x in wanted.values())))


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "number"), [("ffa", 0), ("rolora", 2), ("rolora", 3), ("fedsvd", 2)])
def test_methods_on_one_factor_are_exact_over_a_narrow_wire(name: str, number: int, wire: str):
    """To float32's rounding, whichever factor is frozen: rolora trains B in round 3 and A in round 4.

    Without a server that multiplies by what it sent, the rounding of the frozen factor is left: 2e-3 in bfloat16.
    """
    state = server(number)
    assert off(*one_round(state, AsSent(build(name), WIRE[wire]), wire)) < 3e-6
    assert off(*one_round(state, build(name), wire)) > 1e-4


def test_two_rounds_of_rolora_are_exact_each():
    """Round 2 freezes the B that round 1 has averaged, and which no 16 bits hold."""
    state, method = server(0), AsSent(build("rolora"), torch.bfloat16)
    for _ in range(2):
        adapter, trained = one_round(state, method, "bfloat16")
        assert off(adapter, trained) < 3e-6
        state = replace(state, round=state.round + 1, adapter=adapter)


def test_a_method_that_trains_both_factors_is_left_alone():
    state, inner = server(2), build("replication")
    method = AsSent(inner, torch.bfloat16)
    assert method.info is inner.info
    assert method.read_out(state, 4, "ann").adapter.identical(inner.read_out(state, 4, "ann").adapter)
