"""Aggregation in trees against the flat one: over the whole registry, with every option."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from polyrank import packed
from polyrank.adapter import Adapter, Factors
from polyrank.aggregation import Aggregate, Method, Portable, build
from polyrank.aggregation.method import method
from polyrank.errors import AdapterError, ConfigError
from polyrank.federation.job import job
from polyrank.federation.round import aggregate, read_out, read_outs
from polyrank.federation.setup import build as build_federation
from polyrank.federation.tree import Node, TreeResult
from polyrank.state import ClientUpdate, ServerState
from tests.conformance.compare import same_model
from tests.conformance.fixtures import Round, as_trained, conclude
from tests.conformance.test_conformance import Variant, every_method, every_round
from tests.conformance.test_conformance import _round as round_of
from tests.federation.conftest import Configure

Tree = list["int | Tree"]
TREES: dict[str, Tree] = {
    "one edge": [[0, 1, 2, 3, 4, 5]],
    "uneven": [0, [1], [], [[2, [3, 4]], 5]],
    "a chain, the donors last": [[[[[[5], 4], 3], 2], 1], 0],
}
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}


def through(variant: Variant, it: Round, tree: Tree) -> Portable:
    """The tree's sums; every branch goes through bytes."""
    sums = variant.method.start(it.server)
    assert isinstance(sums, Portable)
    for branch in tree:
        if isinstance(branch, list):
            below = through(variant, it, branch).dump()
            header, tensors = packed.unpack(packed.pack({"sums": below.about}, below.tensors))
            other = variant.method.start(it.server)
            assert isinstance(other, Portable)
            other.restore(replace(below, about=header["sums"], tensors=tensors))
            sums.merge(other)
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
@every_round
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
        updates.append(ClientUpdate(name, start.map(lambda t: t + normal(*t.shape) / 3), 1.0 + i % 5))
    return state, updates


def in_tree(state: ServerState, updates: Sequence[ClientUpdate], chosen: Method, uniform: bool = False) -> TreeResult:
    """Edges of 1, 2, 3, ... clients, every second pair of edges behind a node of its own."""
    root, between, taken, size = Node(state, chosen, uniform=uniform), Node(state, chosen, uniform=uniform), 0, 1
    while taken < len(updates):
        edge = Node(state, chosen, uniform=uniform)
        for update in updates[taken : taken + size]:
            edge.add(update)
        (between if size % 2 else root).fold(edge.pack())
        taken, size = taken + size, size + 1
    root.fold(between.pack())
    return root.finish()


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(
    "name", ["replication", "zero_padding", "hetlora", "shrinkage", "flexlora", "fedex", "ffa", "fedsa"]
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
    assert found.used == tuple(update.client for update in flat.used)
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
            jobs = [job(it, state, client, number, sent[client]) for client in it.clients]
            results.append(list(it.engine.train(jobs)))
        flat = aggregate(flat, results[0], it.method, uniform=False, local_head=False).state
        root, edges = Node(tree, it.method), [Node(tree, it.method) for _ in range(3)]
        for update, node in zip(results[1], (edges[0], root, edges[1], edges[2], edges[1], edges[0]), strict=True):
            node.add(update)
        edges[1].fold(edges[2].pack())
        for edge in edges[:2]:
            root.fold(edge.pack())
        tree = root.finish().state
    assert tree.round == flat.round == 3
    for module, factors in flat.adapter.modules.items():
        torch.testing.assert_close(tree.adapter.modules[module].delta(), factors.delta(), rtol=1e-5, atol=1e-5)


def test_an_edge_sends_no_more_for_many_clients_and_no_row_that_nobody_owns():
    """Owner mean, ranks 1 and 2 of 6: sums of rank 2 of q, and the head, in float64: (2 (10 + 7) + 21) numbers."""
    state, updates = federation([1, 2] * 50)
    few, many = (Node(state, build("owner_mean")) for _ in range(2))
    for update in updates:
        many.add(update)
        if update.client < "c002":
            few.add(update)
    sizes = [sum(t.nbytes for t in packed.unpack(node.pack())[1].values()) for node in (few, many)]
    weights_and_owners = 2 * 2 * 8
    assert sizes[0] == sizes[1] == (2 * 17 + 21) * 8 + weights_and_owners


def test_without_updates_or_with_an_overflow_the_adapter_stays():
    state, updates = federation([2, 2])
    root = Node(state, build("owner_mean"))
    root.fold(Node(state, build("owner_mean")).pack())
    assert root.finish().state.adapter is state.adapter
    huge = [replace(u, adapter=u.adapter.map(lambda t: torch.full_like(t, 1.7e308)), weight=1.0) for u in updates]
    root = Node(state, build("owner_mean"))
    for update in huge:
        root.add(update)
    found = root.finish()
    assert found.state.adapter is state.adapter
    assert found.state.round == 5
    assert "overflows" in found.dropped["c000"]


def test_an_edge_whose_sums_overflow_is_refused_and_the_others_count():
    state, updates = federation([2, 2, 3])
    edge, root = Node(state, build("owner_mean")), Node(state, build("owner_mean"))
    for update in updates[:2]:
        edge.add(replace(update, adapter=update.adapter.map(lambda t: torch.full_like(t, 1.7e308))))
    root.add(updates[2])
    expected = Node(state, build("owner_mean"))
    expected.add(updates[2])
    with pytest.raises(AdapterError, match="NaN or infinite"):
        root.fold(edge.pack())
    assert root.finish().state.adapter.identical(expected.finish().state.adapter)


def test_sums_of_another_round_method_or_option_are_refused():
    state, updates = federation([2])
    root = Node(state, build("owner_mean"))
    for other, said in (
        (Node(replace(state, round=3), build("owner_mean")), "round 4; expected 5"),
        (Node(state, build("tempered")), "method 'tempered'; expected 'owner_mean'"),
        (Node(state, build("owner_mean", {"min_owners": 2})), "options"),
    ):
        other.add(updates[0])
        with pytest.raises(AdapterError, match=said):
            root.fold(other.pack())
    assert root.finish().state.adapter is state.adapter


def test_a_client_counts_once():
    state, updates = federation([2, 2])
    root, edge = Node(state, build("owner_mean")), Node(state, build("owner_mean"))
    edge.add(updates[0])
    root.add(updates[0])
    with pytest.raises(AdapterError, match="client c000 has been counted already"):
        root.fold(edge.pack())
    with pytest.raises(AdapterError, match="client c000 has been counted already"):
        root.add(updates[0])
    with pytest.raises(AdapterError, match="no rank in this federation"):
        root.add(replace(updates[0], client="who"))


def damaged(message: bytes) -> dict[str, bytes]:
    """One message, broken in many ways."""
    header, tensors = packed.unpack(message)

    def header_with(change: str, **values: object) -> bytes:
        again = json.loads(json.dumps(header))
        place = again["sums"]["modules"]["q"]
        for key in filter(None, change.split(".")):
            place = place[key]
        place.update(values)
        return packed.pack(again, tensors)

    def tensors_with(**values: torch.Tensor) -> bytes:
        return packed.pack(header, tensors | {f"modules/q/others/{name}": value for name, value in values.items()})

    a, owners = tensors["modules/q/others/a"], tensors["modules/q/others/owners"]
    return {
        "cut": message[:-5],
        "empty": b"",
        "pickle": b"\x80\x04K\x01.",
        "total": header_with("", total=-1.0),
        "nan total": header_with("", total=float("nan")),
        "true total": header_with("", total=True),
        "no donors": header_with("", donor_rank=3),
        "rank": header_with("others", rank=7),
        "rank below": header_with("others", rank=-1),
        "shape": tensors_with(a=a.T.contiguous()),
        "dtype": tensors_with(a=a.float()),
        "nan": tensors_with(a=a * float("nan")),
        "owners": tensors_with(owners=owners * 0),
        "missing": packed.pack(header, {k: t for k, t in tensors.items() if not k.endswith("weight")}),
        "names": packed.pack({**header, "used": [1]}, tensors),
        "no sums": packed.pack({**header, "sums": None}, tensors),
        "unknown module": packed.pack({**header, "sums": {**header["sums"], "modules": {"k": {}}}}, tensors),
    }


WAYS = (
    "cut", "empty", "pickle", "total", "nan total", "true total", "no donors", "rank", "rank below", "shape", "dtype",
    "nan", "owners", "missing", "names", "no sums", "unknown module",
)  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_message_changes_nothing(how: str):
    state, updates = federation([2, 3])
    edge, root, expected = (Node(state, build("owner_mean")) for _ in range(3))
    edge.add(updates[0])
    root.add(updates[1])
    expected.add(updates[1])
    with pytest.raises(AdapterError):
        root.fold(damaged(edge.pack())[how])
    assert root.used == {"c001"}
    assert root.finish().state.adapter.identical(expected.finish().state.adapter)


@method("plain_sums", paper="", averages="", exact="no", linear=True)
@dataclass(frozen=True)
class NotPortable(Method):
    """A method of somebody's own, whose accumulator stays where it is."""

    def start(self, server: ServerState) -> Sums:
        return Sums(server)


class Sums:
    def __init__(self, server: ServerState) -> None:
        self.server = server

    def add(self, update: ClientUpdate) -> None: ...

    def merge(self, other: Sums) -> None: ...

    def finish(self) -> Aggregate:
        return Aggregate(self.server.adapter)


def test_a_method_whose_sums_cannot_be_sent_is_named():
    state, _ = federation([2])
    with pytest.raises(ConfigError, match=r"plain_sums cannot be aggregated in a tree: its accumulator \(Sums\)"):
        Node(state, NotPortable())
