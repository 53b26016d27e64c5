"""Aggregation in trees against the flat one: over the whole registry, with every option."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from polyrank.aggregation import Aggregate, Method, Partial, Sums, build
from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import read_out, read_outs
from polyrank.federation.server import build as build_federation
from polyrank.federation.tree import Hooks, Message, Node, RoundResult, aggregate
from tests.conformance.compare import same_model
from tests.conformance.fixtures import Adding, Round, as_trained, conclude
from tests.conformance.test_conformance import Variant, every_method, hard_rounds
from tests.conformance.test_conformance import _round as round_of
from tests.conftest import Configure

Tree = list["int | Tree"]
TREES: dict[str, Tree] = {
    "one edge": [[0, 1, 2, 3, 4, 5]],
    "uneven": [0, [1], [], [[2, [3, 4]], 5]],
    "a chain, the donors last": [[[[[[5], 4], 3], 2], 1], 0],
}
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}


def through(variant: Variant, it: Round, tree: Tree) -> Adding:
    """The tree's sums; every branch goes through bytes."""
    sums = Adding(variant.method, it.server, it.updates)
    for branch in tree:
        if isinstance(branch, list):
            below = through(variant, it, branch).sums.partial()
            sums.sums += sums.kernel.received(codec.loads(Partial, codec.dumps(below)))
        elif branch < len(it.updates):
            sums.add(it.updates[branch])
    return sums


def close(found: Aggregate, expected: Aggregate, by: str, bound: float) -> None:
    """By factors where they are unique, else by products, relative to the largest value."""

    def values(adapter: Adapter | None) -> dict[str, torch.Tensor]:
        if adapter is None:
            return {}
        if by == "factors":
            return dict(adapter.tensors())
        return {name: factors.delta() for name, factors in adapter.modules.items()} | dict(adapter.dense)

    for one, other in ((found.adapter, expected.adapter), (found.base_change, expected.base_change)):
        mine, wanted = values(one), values(other)
        assert mine.keys() == wanted.keys()
        for name, value in wanted.items():
            gap = float((mine[name] - value).abs().max())
            assert gap <= bound * max(float(value.abs().max()), 1.0), f"{name}: off by {gap}"


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@hard_rounds
def test_a_tree_is_flat_in_float64(variant: Variant, fixture: str, tree: Tree):
    it = as_trained(variant.method, round_of(fixture))
    found, flat = through(variant, it, tree).finish(), conclude(variant.method, it.server, it.updates)
    if variant.values.get("compress"):
        same_model(found, flat, variant.by)  # cut on the way at its own tolerance
    else:
        close(found, flat, variant.by, BOUND[torch.float64])


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@every_method
def test_a_tree_is_flat_in_float32(variant: Variant, tree: Tree):
    name = "equal_ranks" if variant.info.equal_ranks else "three_levels"
    it = as_trained(variant.method, round_of(name, torch.float32))
    found, flat = through(variant, it, tree).finish(), conclude(variant.method, it.server, it.updates)
    close(found, flat, variant.by, BOUND[torch.float32])


def test_products_are_the_same_to_the_last_bit():
    """They are summed in the order of the clients' names, wherever they came in."""
    variant = Variant("flexlora", {})
    it = round_of("three_levels")
    flat = conclude(variant.method, it.server, it.updates).adapter
    for tree in TREES.values():
        found = through(variant, it, tree).finish().adapter
        assert Adapter(found.modules).identical(Adapter(flat.modules))


# Nodes ---------------------------------------------------------------------------------------------------------------


def federation(
    ranks: Sequence[int], seed: int = 0, method: Method | None = None
) -> tuple[ServerState, list[ClientUpdate]]:
    """A server of rank 6 and one update per client, of the shapes that it was sent."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    names = [f"c{i:03d}" for i in range(len(ranks))]
    adapter = Adapter({"q": Factors(normal(6, 10), normal(7, 6), 2.0)}, {"head": normal(3, 7)})
    scales = {name: 2.0 if rank > 2 else 0.5 for name, rank in zip(names, ranks, strict=True)}
    state = ServerState(4, adapter, dict(zip(names, ranks, strict=True)), scales)
    updates = []
    for i, name in enumerate(names):
        start = read_out(state, name, method or build("owner_mean")).adapter
        update = ClientUpdate(name, start.map(lambda t: t + normal(*t.shape) / 3), 1.0 + i % 5)
        if method is not None and method.info.chooses_indices:
            own = {"q": tuple(sorted((i + j) % 6 for j in range(state.ranks[name])))}
            update = replace(update, adapter=update.adapter.picked(own), indices=own)
        updates.append(update)
    return state, updates


def in_tree(state: ServerState, updates: Sequence[ClientUpdate], chosen: Method, uniform: bool = False) -> RoundResult:
    """Edges of 1, 2, 3, ... clients, every second pair of edges behind a node of its own."""
    root, between = (Node(state, chosen, state.ranks, uniform=uniform) for _ in range(2))
    taken, size = 0, 1
    while taken < len(updates):
        edge = Node(state, chosen, state.ranks, uniform=uniform)
        for update in updates[taken : taken + size]:
            edge.add(update)
        (between if size % 2 else root).fold(edge.pack())
        taken, size = taken + size, size + 1
    root.fold(between.pack())
    return root.finish()


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "replication",
        "zero_padding",
        "hetlora",
        "shrinkage",
        "flexlora",
        "fedex",
        "ffa",
        "fedsa",
        "fslora",
        "fed_plora",
        "lora_a2",
    ],
)
def test_a_round_in_a_tree_is_the_flat_round(name: str, uniform: bool):
    """With one broken update, which is named in both, and one of weight 0."""
    chosen = build(name)
    state, updates = federation([1, 2, 6, 2, 5, 3, 6, 1, 4, 2, 2, 2], method=chosen)
    updates[3] = replace(updates[3], adapter=updates[3].adapter.map(lambda t: t * float("nan")))
    updates[5] = replace(updates[5], weight=0.0)
    flat = aggregate(state, updates, chosen, uniform=uniform, local_head=False)
    found = in_tree(state, updates, chosen, uniform)
    assert found.dropped == flat.dropped
    assert list(found.dropped) == ["c003"]
    assert found.used == flat.used == tuple(update.client for update in flat.received)
    assert found.state.round == flat.state.round == 5
    for one, other in ((found.state.adapter, flat.state.adapter), (found.state.base_change, flat.state.base_change)):
        assert (one is None) == (other is None)
        for module in one.modules if one else ():
            torch.testing.assert_close(
                one.modules[module].delta(), other.modules[module].delta(), rtol=1e-12, atol=1e-12
            )
    np.testing.assert_allclose(found.state.adapter.dense["head"], flat.state.adapter.dense["head"], rtol=1e-12)


@pytest.mark.parametrize("name", ["replication", "zero_padding", "flexlora"])
def test_three_rounds_of_training_are_the_same_in_a_tree(configure: Configure, name: str):
    """Real training on a tiny BERT, six clients of ranks 4 and 2: edges of one and two clients, one at the root."""
    it = build_federation(configure(f"aggregation.method={name}", "federation.participation=1"))
    flat = tree = it.initial_state()
    for number in (1, 2, 3):
        results = []
        for state in (flat, tree):
            sent = read_outs(state, it.clients, it.method)
            works = {client: it.work(state, client, number, sent[client]) for client in it.clients}
            results.append([outcome.update(works[outcome.client]) for outcome in it.engine.run(list(works.values()))])
        flat = aggregate(flat, results[0], it.method, uniform=False, local_head=False).state
        root, *edges = (Node(tree, it.method, it.clients) for _ in range(4))
        for update, node in zip(results[1], (edges[0], root, edges[1], edges[2], edges[1], edges[0]), strict=True):
            node.add(update)
        edges[1].fold(edges[2].pack())
        for edge in edges[:2]:
            root.fold(edge.pack())
        tree = root.finish().state
    assert tree.round == flat.round == 3
    for module, factors in flat.adapter.modules.items():
        torch.testing.assert_close(tree.adapter.modules[module].delta(), factors.delta(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "rows", "width"), [("owner_mean", 6, 17), ("replication", 8, 17), ("ffa", 6, 7)])
def test_what_an_edge_sends_is_of_a_fixed_shape(name: str, rows: int, width: int):
    """Ranks 1, 2 and 6 of 6, however many clients and of whichever ranks they are.

    A row or column of q has 10 or 7 numbers, the head 21. Owner mean has sums of all six, replication of the donors'
    six and the others' two, ffa of B alone. Beside them a weight and a number of owners for each of those rows, and a
    weight in all for q and for the head; 8 bytes each.
    """
    state, updates = federation([1, 2, 6] * 30)
    messages = []
    for chosen in ([], updates[:1], updates[2:3], updates):
        node = Node(state, build(name), state.ranks)
        for update in chosen:
            node.add(update)
        messages.append({key: tuple(t.shape) for key, t in read(node.pack()).tensors.items()})
    assert all(message == messages[0] for message in messages)
    assert sum(math.prod(shape) for shape in messages[0].values()) == rows * (width + 2) + 21 + 2


def test_without_updates_or_with_an_overflow_the_adapter_stays():
    state, updates = federation([2, 2])
    root = Node(state, build("owner_mean"), state.ranks)
    root.fold(Node(state, build("owner_mean"), state.ranks).pack())
    assert root.finish().state.adapter is state.adapter
    huge = [replace(u, adapter=u.adapter.map(lambda t: torch.full_like(t, 1.7e308)), weight=1.0) for u in updates]
    root = Node(state, build("owner_mean"), state.ranks)
    for update in huge:
        root.add(update)
    found = root.finish()
    assert found.state.adapter is state.adapter
    assert found.state.round == 5
    assert "overflows" in found.dropped["c000"]


def test_an_edge_whose_sums_overflow_is_refused_and_the_others_count():
    state, updates = federation([2, 2, 3])
    edge, root = Node(state, build("owner_mean"), state.ranks), Node(state, build("owner_mean"), state.ranks)
    for update in updates[:2]:
        edge.add(replace(update, adapter=update.adapter.map(lambda t: torch.full_like(t, 1.7e308))))
    root.add(updates[2])
    expected = Node(state, build("owner_mean"), state.ranks)
    expected.add(updates[2])
    with pytest.raises(AdapterError, match="NaN or infinite"):
        root.fold(edge.pack())
    assert root.finish().state.adapter.identical(expected.finish().state.adapter)


def test_sums_of_another_round_method_or_option_are_refused():
    state, updates = federation([2])
    root = Node(state, build("owner_mean"), state.ranks)
    for other, said in (
        (Node(replace(state, round=3), build("owner_mean"), state.ranks), "round 4; expected 5"),
        (Node(state, build("tempered"), state.ranks), "method 'tempered'; expected 'owner_mean'"),
        (Node(state, build("owner_mean", {"min_owners": 2}), state.ranks), "options"),
    ):
        other.add(updates[0])
        with pytest.raises(AdapterError, match=said):
            root.fold(other.pack())
    assert root.finish().state.adapter is state.adapter


def test_a_client_counts_once():
    state, updates = federation([2, 2])
    root, edge = Node(state, build("owner_mean"), state.ranks), Node(state, build("owner_mean"), state.ranks)
    edge.add(updates[0])
    root.add(updates[0])
    with pytest.raises(AdapterError, match="client c000 has been counted already"):
        root.fold(edge.pack())
    with pytest.raises(AdapterError, match="client c000 has been counted already"):
        root.add(updates[0])
    with pytest.raises(AdapterError, match="no rank in this federation"):
        root.add(replace(updates[0], client="who"))


def read(data: bytes) -> Message:
    return codec.loads(Message, data)


def damaged(data: bytes) -> dict[str, bytes]:
    """One message, broken in many ways."""
    (header, tensors), message = codec.unpack(data), read(data)

    def of(named: Mapping[str, torch.Tensor]) -> bytes:
        return codec.dumps(replace(message, tensors=named))

    def with_(**values: torch.Tensor) -> bytes:
        return of({**message.tensors, **{f"modules/q/others/{name}": value for name, value in values.items()}})

    a, weight, owners = (message.tensors[f"modules/q/others/{name}"] for name in ("a", "weight", "owners"))
    return {
        "cut": data[:-5],
        "empty": b"",
        "pickle": b"\x80\x04K\x01.",
        "negative": with_(weight=-weight),
        "nan weight": with_(weight=weight * float("nan")),
        "negative owners": with_(owners=-owners),
        "shape": with_(a=a.T.contiguous()),
        "narrower": with_(a=a[:2]),
        "dtype": with_(a=a.float()),
        "nan": with_(a=a * float("nan")),
        "missing": of({k: t for k, t in message.tensors.items() if not k.endswith("weight")}),
        "missing in the body": codec.pack(header, {k: t for k, t in tensors.items() if not k.endswith("weight")}),
        "one too many in the body": codec.pack(header, {**tensors, "tensors/more": a}),
        "names": codec.pack({**header, "used": [1]}, tensors),
        "no sums": codec.pack({**header, "about": None}, tensors),
        "unknown module": of({**message.tensors, "modules/k/others/a": a}),
        "stranger": codec.pack({**header, "used": ["who"]}, tensors),
        "other ranks": codec.pack({**header, "ranks": [1]}, tensors),
    }


WAYS = (
    "cut", "empty", "pickle", "negative", "nan weight", "negative owners", "shape", "narrower", "dtype", "nan",
    "missing", "missing in the body", "one too many in the body", "names", "no sums",
    "unknown module", "stranger", "other ranks",
)  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_message_changes_nothing(how: str):
    state, updates = federation([2, 3])
    edge, root, expected = (Node(state, build("owner_mean"), state.ranks) for _ in range(3))
    edge.add(updates[0])
    root.add(updates[1])
    expected.add(updates[1])
    with pytest.raises(AdapterError):
        root.fold(damaged(edge.pack())[how])
    assert root.used == {"c001"}
    assert root.finish().state.adapter.identical(expected.finish().state.adapter)


def test_a_client_that_was_not_asked_is_refused():
    state, updates = federation([2, 3, 4])
    root, edge = Node(state, build("owner_mean"), ["c000", "c001"]), Node(state, build("owner_mean"), state.ranks)
    with pytest.raises(AdapterError, match="client c002 was not asked in this round"):
        root.add(updates[2])
    edge.add(updates[2])
    with pytest.raises(AdapterError, match=r"ranks \(2, 3, 4\); expected \(2, 3\)"):
        root.fold(edge.pack())


def test_where_no_donor_comes_rows_are_filled_with_the_owners_mean():
    """Asked: ranks 1, 2 and 6. The one of rank 6 does not answer: as with donor = "owners"."""
    state, updates = federation([1, 2, 6])
    sent = read_outs(state, state.ranks, build("replication"))
    found = aggregate(state, updates[:2], build("replication"), sent=sent).state.adapter
    expected = aggregate(state, updates[:2], build("owner_mean"), sent=sent).state.adapter
    torch.testing.assert_close(found.modules["q"].a, expected.modules["q"].a)
    torch.testing.assert_close(found.modules["q"].b, expected.modules["q"].b)


# Hooks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replication", "zero_padding_delta", "shrinkage", "flexlora", "rolora"])
def test_contributions_that_are_added_are_the_sums_that_are_folded(name: str):
    """A hook that changes nothing makes the server add contribution to contribution, each made on its own."""
    chosen = build(name)
    state, updates = federation([1, 2, 6, 2, 5, 3], method=chosen)
    seen = []
    hooks = Hooks(contribution=lambda one: seen.append(one) or one)
    found = aggregate(state, updates, chosen, hooks=hooks).state.adapter
    expected = aggregate(state, updates, chosen).state.adapter
    assert len(seen) == len(updates)
    for module, factors in expected.modules.items():
        torch.testing.assert_close(found.modules[module].delta(), factors.delta(), rtol=1e-11, atol=1e-11)


def test_a_client_may_halve_and_the_server_double_what_is_added():
    """Clipping and noise are such hooks: here one client's contribution is clipped to nothing, and the sum doubled.

    Of the clients with weights 1 and 2, the first one's sums and weights are 0, so the mean over owners is the second.
    Doubling sums and weights alike changes no mean.
    """
    state, updates = federation([2, 2])
    order = iter([0.0, 1.0])

    def clipped(one: Sums) -> Sums:
        factor = next(order)
        return Sums({key: (t * factor).to(t.dtype) for key, t in one.tensors.items()})

    hooks = Hooks(contribution=clipped, total=lambda sums: sums + sums)
    found = aggregate(state, updates, build("owner_mean"), hooks=hooks).state.adapter
    expected = aggregate(state, updates[1:], build("owner_mean")).state.adapter
    assert found.identical(expected)


def test_a_server_optimiser_sees_the_state_and_the_aggregate():
    """Half a step: the mean of the adapter before and of what the method made."""
    state, updates = federation([6, 6])

    def half(before: ServerState, made: Aggregate) -> Aggregate:
        old = dict(before.adapter.tensors())
        return replace(made, adapter=made.adapter.replaced({n: (t + old[n]) / 2 for n, t in made.adapter.tensors()}))

    found = aggregate(state, updates, build("owner_mean"), hooks=Hooks(aggregate=half)).state.adapter
    whole = aggregate(state, updates, build("owner_mean")).state.adapter
    for (name, tensor), (_, full) in zip(found.tensors(), whole.tensors(), strict=True):
        torch.testing.assert_close(tensor, (full + dict(state.adapter.tensors())[name]) / 2)


def test_a_noised_sum_is_another_adapter():
    """Noise of a known size on B alone, for ffa with one client of weight 4: B moves by noise / 4."""
    chosen = build("ffa")
    state, updates = federation([6], method=chosen)
    updates = [replace(updates[0], weight=4.0)]

    def noised(sums: Sums) -> Sums:
        return Sums({key: t + 1 if key.endswith("/b") else t for key, t in sums.tensors.items()})

    found = aggregate(state, updates, chosen, hooks=Hooks(total=noised)).state.adapter.modules["q"]
    plain = aggregate(state, updates, chosen).state.adapter.modules["q"]
    torch.testing.assert_close(found.b, plain.b + 0.25)
