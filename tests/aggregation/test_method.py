from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from polyrank.aggregation import METHODS, Kernel, Levels, Method, Parts, build
from polyrank.aggregation.method import method
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ServerState
from tests.conformance.fixtures import UNEQUAL

A, B, HEAD = frozenset("a"), frozenset("b"), frozenset({"head"})
ALL = A | B | HEAD


@method("twice", paper="", averages="nothing", exact="no", fixed_sums=False)
@dataclass(frozen=True)
class Twice(Method):
    """A method that says no more than it must."""

    times: int = 2
    how: str = "plain"

    def start(self, server: ServerState, levels: Levels) -> Kernel:
        raise NotImplementedError


def test_facts_are_attached_with_modest_defaults():
    info = Twice.info
    assert (info.name, info.exact, info.fixed_sums) == ("twice", "no", False)
    assert not info.equal_ranks
    assert not info.changes_base
    assert info.merges


def test_a_method_must_start():
    class Idle(Method):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Idle()  # type: ignore[abstract]  # that is the point


def test_all_is_trained_and_travels_unless_a_method_says_otherwise():
    assert Twice().parts(1) == Parts(ALL, ALL, ALL, frozenset())


def test_a_local_head_is_trained_and_kept():
    assert Parts().with_local_head() == Parts(ALL, A | B, A | B, HEAD)
    kept = Parts(sends=A, receives=A, keeps=B | HEAD)
    assert kept.with_local_head() == kept


def test_a_client_starts_from_the_first_rank_indices_and_the_base_change():
    """At the server's scale; a rank above the global one gets all of it."""
    factors = Factors(torch.arange(6.0).reshape(3, 2), torch.arange(12.0).reshape(4, 3), 2.5)
    change = Adapter({"m": factors.prefix(1)})
    state = ServerState(1, Adapter({"m": factors}, {"head": torch.ones(2)}), {}, {}, base_change=change)
    for rank in (1, 2, 3, 9):
        download = Twice().read_out(state, rank, "ann")
        assert download.adapter.identical(state.adapter.prefix(min(rank, 3)))
        assert download.base_change is change


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_every_method_make_sense(name: str):
    """Only what is trained is sent, nothing that is kept is; what others trained comes down or is the client's own."""
    for number in (1, 2, 3):
        for parts in (build(name).parts(number), build(name).parts(number).with_local_head()):
            assert parts.trains | parts.sends | parts.receives | parts.keeps <= ALL
            assert parts.sends <= parts.trains
            assert not parts.keeps & (parts.sends | parts.receives)
            assert parts.trains <= parts.sends | parts.keeps


NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("name", "number", "parts"),
    [
        ("replication", 1, Parts(ALL, ALL, ALL, NONE)),
        ("flexlora", 1, Parts(ALL, ALL, ALL, NONE)),
        ("flora", 1, Parts(ALL, ALL, HEAD, NONE)),
        ("florist", 1, Parts(ALL, ALL, HEAD, NONE)),
        ("fedhl", 1, Parts(ALL, ALL, ALL, NONE)),
        ("fedex", 1, Parts(ALL, ALL, ALL, NONE)),
        ("ffa", 1, Parts(B | HEAD, B | HEAD, B | HEAD, NONE)),
        ("rolora", 1, Parts(B | HEAD, B | HEAD, ALL, NONE)),
        ("rolora", 2, Parts(A | HEAD, A | HEAD, ALL, NONE)),
        ("rolora", 3, Parts(B | HEAD, B | HEAD, ALL, NONE)),
        ("lora_a2", 1, Parts(B | HEAD, B | HEAD, ALL, NONE)),
        ("lora_a2", 2, Parts(A | HEAD, A | HEAD, ALL, NONE)),
        ("fedsa", 1, Parts(ALL, A, A, B | HEAD)),
        ("fedsvd", 1, Parts(B | HEAD, B | HEAD, ALL, NONE)),
    ],
)
def test_what_is_trained_and_what_travels(name: str, number: int, parts: Parts):
    """Trains, sends, receives, keeps."""
    assert build(name).parts(number) == parts


@pytest.mark.parametrize("name", METHODS)
def test_every_method_reads_out_any_rank(name: str):
    """The first rank indices of the adapter, those that were drawn, or all; a base change of the same layers."""
    it = UNEQUAL["levels_after"](torch.float64)
    for state in (it.server, replace(it.server, base_change=None)):
        for rank in (1, 3, 6, 9):
            method = build(name)
            download = method.read_out(state, rank, "ann")
            if method.info.draws_indices:
                own = method.indices(state, "ann", download.adapter.ranks)
                for module, factors in download.adapter.modules.items():
                    known = state.adapter.modules[module]
                    assert factors.rank == min(rank, known.rank)
                    assert factors.scale == known.scale * method.scaled_up(factors.rank, known.rank)
                    assert torch.equal(factors.a, known.a[own[module]])
                    assert torch.equal(factors.b, known.b[:, own[module]])
            elif method.info.chooses_indices:
                assert download.adapter is state.adapter
            else:
                assert download.adapter.identical(state.adapter.prefix(rank))
            if download.base_change is not None:
                for module, factors in download.base_change.modules.items():
                    known = state.adapter.modules[module]
                    assert (factors.d_out, factors.d_in) == (known.d_out, known.d_in)
