"""What a client adds to a secure sum: the plain result to the step of the numbers, and no row of too few owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from polyrank import aggregation
from polyrank.aggregation import Method
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import SecureError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.contribution import Plan, plan_of
from polyrank.federation.masked import concluded
from polyrank.federation.round import read_outs
from polyrank.federation.tree import aggregate
from polyrank.secure.attempt import Total
from polyrank.secure.ring import Ring

RANKS = {"a": 2, "b": 2, "c": 5, "d": 5, "e": 20, "f": 20}
WEIGHTS = {"a": 10.0, "b": 40.0, "c": 25.0, "d": 12.0, "e": 31.0, "f": 7.0}
RING = Ring(32, 6, clip=16.0, weight=40.0)


def factors(rank: int, generator: torch.Generator, scale: float = 2.0) -> Factors:
    return Factors(torch.randn(rank, 12, generator=generator), torch.randn(9, rank, generator=generator), scale)


def server(ranks: Mapping[str, int] = RANKS, scales: Mapping[str, float] | None = None) -> ServerState:
    generator = torch.Generator().manual_seed(1)
    modules = {name: factors(20, generator) for name in ("q", "v")}
    adapter = Adapter(modules, {"head": torch.randn(3, 9, generator=generator)})
    return ServerState(0, adapter, ranks, scales or dict.fromkeys(ranks, 2.0))


def updates(state: ServerState, method: Method) -> list[ClientUpdate]:
    generator, found = torch.Generator().manual_seed(2), []
    for client, start in read_outs(state, state.ranks, method).items():
        trained = {
            name: tensor + torch.randn(tensor.shape, generator=generator)
            for name, tensor in start.adapter.parts(method.parts(1).trains).items()
        }
        found.append(ClientUpdate(client, start.adapter.replaced(trained), WEIGHTS[client]))
    return found


def summed(plan: Plan, method: Method, state: ServerState, found: list[ClientUpdate], **chosen: bool) -> Total:
    """The sum as the masks leave it."""
    sent, options = read_outs(state, state.ranks, method), {"uniform": False, "local_head": False, **chosen}
    vectors = [plan.ring.encode(plan.contribution(method, sent[one.client].adapter, one, **options)) for one in found]
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return Total(total, tuple(sorted(one.client for one in found)))


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("replication", {}),
    ("replication", {"donor": "owners"}),
    ("owner_mean", {}),
    ("zero_padding", {}),
    ("zero_padding_delta", {}),
    ("tempered", {}),
    ("ffa", {}),
    ("rolora", {}),
]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_the_result_is_the_plain_rounds_to_the_step_of_the_numbers(name: str, options: dict[str, Any], bits: int):
    """A sum is off by the ring's error, 3 steps. A row's mean divides it by its owners' weight, 32 at least (c and d
    own rows with e and f, who weigh 38; donors fill with their own mean, once more), so 2 / 32 of it; the rest is
    float32, in which both rounds add up and factor anew."""
    method, ring = aggregation.build(name, options), Ring(bits, 6, clip=16.0, weight=40.0)
    state = server(scales={**dict.fromkeys(RANKS, 2.0), "a": 4.0})
    found = updates(state, method)
    plain = aggregate(state, found, method)
    plan = plan_of(method, state, RANKS, ring, 2)
    assert plan.ranks == RANKS
    result = concluded(method, state, plan, summed(plan, method, state, found), local_head=False)
    assert (result.used, result.received) == (tuple(RANKS), ())
    assert result.state.ranks == RANKS
    bound = 2 / 32 * ring.error("modules/q/others/a") + 5e-6
    assert bound < 7e-6
    for (where, ours), (_, theirs) in zip(result.state.adapter.tensors(), plain.state.adapter.tensors(), strict=True):
        assert float((ours - theirs).abs().max()) <= bound, where


def test_fedsvd_has_the_plain_rounds_products():
    """It factors the sum anew, by which factors of nearly the same product can be others."""
    method, state = aggregation.build("fedsvd"), server()
    found = updates(state, method)
    total = summed(plan := plan_of(method, state, RANKS, RING, 2), method, state, found)
    ours = concluded(method, state, plan, total, local_head=False).state.adapter
    theirs = aggregate(state, found, method).state.adapter
    for name, factors in theirs.modules.items():
        assert float((ours.modules[name].delta() - factors.delta()).abs().max()) < 1e-4


def test_every_client_weighs_the_same_where_that_is_asked_for():
    method, state = aggregation.build("owner_mean"), server()
    found = updates(state, method)
    plan = plan_of(method, state, RANKS, Ring(32, 6, clip=16.0, weight=1.0), 2)
    total = summed(plan, method, state, found, uniform=True)
    result, plain = (
        concluded(method, state, plan, total, local_head=False),
        aggregate(state, found, method, uniform=True),
    )
    pairs = zip(result.state.adapter.tensors(), plain.state.adapter.tensors(), strict=True)
    assert max(float((a - b).abs().max()) for (_, a), (_, b) in pairs) < 1e-6


def test_a_contribution_has_the_same_shapes_whatever_the_rank():
    method, state = aggregation.build("replication"), server()
    plan, sent = plan_of(method, state, RANKS, RING, 2), read_outs(state, RANKS, method)
    made = {
        one.client: plan.contribution(method, sent[one.client].adapter, one, uniform=False, local_head=False)
        for one in updates(state, method)
    }
    shapes = {client: [(name, t.shape, t.dtype) for name, t in sums.tensors.items()] for client, sums in made.items()}
    assert all(shape == shapes["a"] for shape in shapes.values())
    assert not made["a"].tensors["modules/q/others/a"][2:].any()
    assert made["c"].tensors["modules/q/others/a"][2:].all()


@pytest.mark.parametrize(
    ("name", "ranks", "least", "kept"),
    [
        ("owner_mean", (20, 5, 2), 2, (5, 5, 2)),  # rows 5 to 19 have one owner, rows 2 to 4 two
        ("owner_mean", (20, 5, 2), 3, (2, 2, 2)),
        ("owner_mean", (20, 5, 2), 1, (20, 5, 2)),
        ("owner_mean", (20, 20, 2), 2, (20, 20, 2)),
        ("replication", (20, 5, 5), 2, (5, 5, 5)),  # the donor's rows are summed apart from the others'
        ("replication", (20, 20, 5, 2, 2), 2, (20, 20, 2, 2, 2)),  # among the others one alone owns rows 2 to 4
        ("ffa", (20, 5, 5), 2, (5, 5, 5)),
    ],
)
def test_rows_of_too_few_owners_are_left_out(name: str, ranks: tuple[int, ...], least: int, kept: tuple[int, ...]):
    method, by_client = aggregation.build(name), dict(zip("abcdef", ranks, strict=False))
    plan = plan_of(method, server(by_client), by_client, RING, least)
    assert tuple(plan.ranks.values()) == kept
    assert all(len(group) >= least for group in plan.together(method).groups)


def test_rows_that_are_left_out_keep_their_values_and_their_owner_sends_none_of_them():
    """Of ranks 20, 5 and 2 rows 5 to 19 have one owner, whose contribution there is zero."""
    ranks = {"a": 20, "b": 5, "c": 2}
    method, state = aggregation.build("owner_mean"), server(ranks)
    found = updates(state, method)
    plan, sent = plan_of(method, state, ranks, RING, 2), read_outs(state, ranks, method)
    alone = plan.contribution(method, sent["a"].adapter, found[0], uniform=False, local_head=False)
    assert not alone.tensors["modules/q/others/a"][5:].any()
    assert not alone.tensors["modules/q/others/owners"][5:].any()
    result = concluded(method, state, plan, summed(plan, method, state, found), local_head=False)
    assert result.state.ranks == ranks  # for the next round they are what they were
    after, before = result.state.adapter.modules["q"], state.adapter.modules["q"]
    assert torch.equal(after.a[5:], before.a[5:])
    assert torch.equal(after.b[:, 5:], before.b[:, 5:])
    assert (after.a[:5] != before.a[:5]).all()


def test_too_few_clients_are_not_summed_at_all():
    with pytest.raises(SecureError, match=r"1 clients would be summed, expected 2 .*secure.min_owners"):
        plan_of(aggregation.build("owner_mean"), server({"a": 5}), {"a": 5}, RING, 2)


def test_a_sum_of_other_clients_than_were_said_is_refused():
    """The owners are part of it: of a, b, c they are not those of a, b, e."""
    method, state = aggregation.build("owner_mean"), server()
    found = updates(state, method)
    plan = plan_of(method, state, RANKS, RING, 2)
    total = summed(plan, method, state, found[:3])
    with pytest.raises(SecureError, match="other owners in modules/q/others/owners"):
        concluded(method, state, plan, Total(total.vector, ("a", "b", "e")), local_head=False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: ClientUpdate("a", one.adapter, 0.0), "its weight is 0"),
        (lambda one: ClientUpdate("a", one.adapter.map(lambda t: t * torch.nan), 1.0), "NaN or infinite values"),
        (lambda one: ClientUpdate("a", one.adapter.prefix(1), 1.0), "expected"),
        (lambda one: ClientUpdate("z", one.adapter, 1.0), "of other clients"),
    ],
)
def test_a_client_contributes_nothing_that_no_server_would_take(change: Any, why: str):
    method, state = aggregation.build("owner_mean"), server()
    plan, sent = plan_of(method, state, RANKS, RING, 2), read_outs(state, RANKS, method)
    bad = change(updates(state, method)[0])
    with pytest.raises(SecureError, match=why):
        plan.contribution(method, sent["a"].adapter, bad, uniform=False, local_head=False)
