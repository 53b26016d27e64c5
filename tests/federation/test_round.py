from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.aggregation import METHODS, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import (
    accepted,
    as_received,
    check_ranks,
    cohort,
    global_model,
    in_whole,
    kept_by,
    mean_base_change,
    nbytes,
    parts_of,
    personalise,
    problem,
    read_out,
    read_outs,
    travelling,
    with_ranks,
)
from polyrank.federation.tree import RoundResult, aggregate
from tests.conformance.fixtures import ALONE


def line(*rows: float, scale: float = 1.0, head: float | None = None) -> Adapter:
    """An adapter of a 1 x 1 layer whose A and B both have the given numbers, one for each rank index."""
    a = torch.tensor(rows)[:, None]
    dense = {} if head is None else {"head": torch.tensor([head])}
    return Adapter({"m": Factors(a, a.T.clone(), scale)}, dense)


SERVER = ServerState(
    4, line(1.0, 4.0, head=10.0), {"ann": 1, "bob": 2, "eve": 2}, dict.fromkeys(("ann", "bob", "eve"), 1.0)
)


REPLICATION = build("replication")


def rows(adapter: Adapter) -> list[float]:
    """The rows of A, once it is clear that the columns of B are the same."""
    factors = adapter.modules["m"]
    assert torch.equal(factors.a, factors.b.T)
    return factors.a.flatten().tolist()


def fold(
    updates: Sequence[ClientUpdate],
    *,
    state: ServerState = SERVER,
    method: str = "replication",
    uniform: bool = False,
    local_head: bool = False,
) -> RoundResult:
    return aggregate(state, updates, build(method, ALONE.get(method)), uniform=uniform, local_head=local_head)


ANN = ClientUpdate("ann", line(2.0, head=14.0), 3.0)
BOB = ClientUpdate("bob", line(6.0, 8.0, head=22.0), 1.0)


NAMES = [f"client-{i:02d}" for i in range(10)]


def test_a_frozen_b_is_the_same_for_all_whatever_their_scales():
    """rolora at scales 1 and 3: in round 5 B is trained, and bob's is a third of the server's; in round 6 it is not."""
    state = replace(SERVER, scales={"ann": 1.0, "bob": 3.0, "eve": 1.0})
    odd = read_out(state, "bob", build("rolora")).adapter.modules["m"]
    even = read_out(replace(state, round=5), "bob", build("rolora")).adapter.modules["m"]
    assert (odd.scale, even.scale) == (3.0, 1.0)
    assert torch.equal(even.b, SERVER.adapter.modules["m"].b)
    torch.testing.assert_close(odd.delta(), even.delta())


def test_clients_of_one_rank_and_different_scales_are_sent_what_is_theirs():
    """B is 1 and 4 under the server's scale of 1, and for eve a quarter of that under 4; both have rank 2."""
    state = replace(SERVER, scales={"ann": 1.0, "bob": 1.0, "eve": 4.0})
    sent = read_outs(state, ("bob", "eve"), REPLICATION)
    found = {name: (one.adapter.modules["m"].scale, one.adapter.modules["m"].b.tolist()) for name, one in sent.items()}
    assert found == {"bob": (1.0, [[1.0, 4.0]]), "eve": (4.0, [[0.25, 1.0]])}


def test_what_was_not_to_be_sent_is_the_servers_in_what_it_measures():
    """ffa sends B alone. Somebody sends a 5 for A: the server, whose A is 1, measures with that, and B is 7."""
    sent = Adapter({"m": Factors(torch.tensor([[5.0]]), torch.tensor([[7.0]]))}, {"head": torch.tensor([14.0])})
    (received,) = fold([ClientUpdate("ann", sent, 1.0)], method="ffa").received
    assert (received.adapter.modules["m"].a.item(), received.adapter.modules["m"].b.item()) == (1.0, 7.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 30), st.floats(0.01, 1), st.integers(1, 40))
def test_a_cohort_is_sorted_without_repeats_and_of_the_size_asked_for(
    seed: int, number: int, participation: float, clients: int
):
    names = [f"client-{i:02d}" for i in range(clients)]
    drawn = cohort(names, participation, seed, number)
    assert list(drawn) == sorted(set(drawn))
    assert set(drawn) <= set(names)
    assert len(drawn) == max(1, math.floor(participation * clients + 0.5))
    assert drawn == cohort(names[::-1], participation, seed, number)


@pytest.mark.parametrize(("clients", "share", "size"), [(25, 0.1, 3), (35, 0.1, 4), (5, 0.5, 3), (100, 0.145, 15)])
def test_the_size_of_a_cohort_is_rounded_half_up(clients: int, share: float, size: int):
    """2.5, 3.5, 2.5 and 14.5 of them; to the even neighbour, as Python rounds, the first and third were 2."""
    assert len(cohort([f"client-{i:03d}" for i in range(clients)], share, 0, 1)) == size


def test_a_cohort_has_at_least_one_client_and_at_most_all():
    """One per cent of ten clients is a tenth of one: one takes part."""
    assert len(cohort(NAMES, 0.01, 0, 1)) == 1
    assert cohort(NAMES, 1.0, 0, 1) == tuple(NAMES)


def test_cohorts_differ_by_round_and_by_seed():
    """Of 120 ways to draw 3 of 10 clients, 40 rounds find many, and every client."""
    of_seed = [{cohort(NAMES, 0.3, seed, number) for number in range(40)} for seed in (0, 1)]
    assert all(len(cohorts) > 20 and set().union(*cohorts) == set(NAMES) for cohorts in of_seed)
    assert of_seed[0] != of_seed[1]


def test_fedavg_is_refused_with_the_name_of_a_client_of_each_rank():
    ranks = {"eve": 4, "bob": 2, "ann": 4}
    message = "fedavg needs clients of equal ranks, but bob has rank 2, ann has rank 4; give ranks.levels one value"
    with pytest.raises(ConfigError, match=message):
        check_ranks(build("fedavg"), ranks, 4)
    check_ranks(build("fedavg"), dict.fromkeys(ranks, 4), 4)


def test_fedavg_is_refused_where_all_clients_are_below_the_global_rank():
    """All have rank 2, but rows 2 and 3 of the global adapter would have no owner: found before the first round."""
    with pytest.raises(ConfigError, match="ann has rank 2, the global adapter has rank 4"):
        check_ranks(build("fedavg"), {"ann": 2, "bob": 2}, 4)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedavg"}))
def test_every_other_method_takes_different_ranks(name: str):
    check_ranks(build(name), {"ann": 2, "bob": 4}, 8)


def test_a_client_is_sent_the_first_rows_and_the_head():
    """Rank 1 of the rows 1 and 4 is the row 1; the head 10 goes along where it is averaged."""
    sent = read_out(SERVER, "ann", REPLICATION)
    assert rows(sent.adapter) == [1.0]
    assert sent.adapter.dense["head"].tolist() == [10.0]
    assert sent.base_change is None
    assert rows(read_out(SERVER, "bob", REPLICATION).adapter) == [1.0, 4.0]


def test_a_local_head_is_not_sent():
    """Of a head and factors of rank 1 the two factors travel, 4 bytes each, down and up."""
    parts = parts_of(REPLICATION, 1, local_head=True)
    sent = read_out(SERVER, "ann", REPLICATION).adapter
    assert [tensor.tolist() for tensor in travelling(sent, parts.receives)] == [[[1.0]], [[1.0]]]
    assert nbytes(sent, parts.receives) == nbytes(ANN.adapter, parts.sends) == 8
    received = as_received(ANN, sent, parts.sends)
    assert received.adapter.dense == {}
    assert received.adapter.modules["m"].a is ANN.adapter.modules["m"].a
    assert received.adapter.modules["m"].b is ANN.adapter.modules["m"].b


@pytest.mark.parametrize(
    ("of_server", "of_client", "b"),
    [
        (2.0, 8.0, [0.25]),  # alpha / r with alpha 8: 8 / 4 and 8 / 1
        (4.0, 8.0, [0.5]),  # alpha / sqrt(r): 8 / 2 and 8 / 1
        (2.0, 2.0, [1.0]),  # constant
    ],
)
def test_reading_out_keeps_the_delta_under_the_clients_scale(of_server: float, of_client: float, b: list[float]):
    """Row 0 is A = 1, B = 1: its delta is the server's scale; B absorbs server's scale / client's scale."""
    state = ServerState(0, line(1.0, 5.0, 6.0, 7.0, scale=of_server), {"ann": 1}, {"ann": of_client})
    factors = read_out(state, "ann", REPLICATION).adapter.modules["m"]
    assert factors.scale == of_client
    assert factors.b.flatten().tolist() == b
    assert factors.a.flatten().tolist() == [1.0]
    assert factors.delta().item() == of_server


def test_a_round_of_clients_that_learn_nothing_keeps_the_server_under_any_scales():
    """What goes out under other scales comes back under the server's: powers of two, so nothing is rounded."""
    state = ServerState(
        0, line(1.0, 5.0, 6.0, 7.0, scale=2.0), {"ann": 1, "bob": 4, "eve": 2}, {"ann": 8.0, "bob": 2.0, "eve": 4.0}
    )
    updates = [ClientUpdate(client, read_out(state, client, REPLICATION).adapter, 1.0) for client in state.ranks]
    assert fold(updates, state=state).state.adapter.identical(state.adapter)


def test_a_client_trains_its_own_head_once_it_has_one():
    """At first the initial head, 10; after that its own, 7, and never another client's."""
    state = ServerState(1, SERVER.adapter, SERVER.ranks, SERVER.scales, personal={"bob": {"head": torch.tensor([7.0])}})
    for client, head in {"ann": 10.0, "bob": 7.0}.items():
        own = personalise(state, client, read_out(state, client, REPLICATION))
        assert own.adapter.dense["head"].tolist() == [head]


def test_a_good_update_has_no_problem():
    assert problem(BOB, line(0.0, 0.0, head=0.0)) is None


@pytest.mark.parametrize(
    ("adapter", "weight", "message"),
    [
        (line(1.0, head=1.0), 1.0, r"m\.a has shape \(1, 1\), expected \(2, 1\)"),
        (line(1.0, 2.0), 1.0, r"expected the tensors that were sent; missing: \['head'\], unknown: none"),
        (Adapter({"x": line(1.0).modules["m"]}), 1.0, r"missing: \['head', 'm.a', 'm.b'\], unknown: \['x.a', 'x.b'\]"),
        (line(1.0, math.nan, head=1.0), 1.0, r"NaN or infinite values in m\.a after local training"),
        (line(1.0, -math.inf, head=1.0), 1.0, r"NaN or infinite values in m\.a"),
        (line(1.0, 2.0, head=math.inf), 1.0, "NaN or infinite values in head"),
        (line(1.0, 2.0, head=1.0), math.nan, "its weight is nan, expected a finite number of 0 or more"),
        (line(1.0, 2.0, head=1.0), -1.0, r"its weight is -1\.0"),
    ],
)
def test_what_is_wrong_with_an_update_is_said(adapter: Adapter, weight: float, message: str):
    found = problem(ClientUpdate("bob", adapter, weight), line(0.0, 0.0, head=0.0))
    assert found is not None
    assert re.search(message, found)
    assert "\n" not in found


def test_updates_count_by_their_weight_or_alike():
    """Weights 3 and 1: row 0 is (3*2 + 1*6) / 4 = 3, the head (3*14 + 1*22) / 4 = 16; alike 4 and 18. Row 1: bob's."""
    weighted = fold([ANN, BOB])
    assert rows(weighted.state.adapter) == [3.0, 8.0]
    assert weighted.state.adapter.dense["head"].tolist() == [16.0]
    alike = fold([ANN, BOB], uniform=True)
    assert rows(alike.state.adapter) == [4.0, 8.0]
    assert alike.state.adapter.dense["head"].tolist() == [18.0]
    assert [update.weight for update in alike.received] == [1.0, 1.0]


def test_only_the_adapter_and_the_round_go_on():
    after = fold([ANN, BOB]).state
    assert after.round == 5
    assert (after.ranks, after.scales, after.personal) == (SERVER.ranks, SERVER.scales, {})


def test_the_global_rank_stays_where_no_high_rank_client_took_part():
    """Only ann of rank 1: row 0 becomes hers, row 1 stays 4."""
    assert rows(fold([ANN]).state.adapter) == [2.0, 4.0]


def test_the_order_of_arrival_does_not_matter():
    """Sums of 0.1, 0.7 and 1e7 differ with their order, so they must run in the order of the names."""
    sent = [ClientUpdate(n, line(v, v, head=v), 1.0) for n, v in {"bob": 0.1, "eve": 0.7, "zoe": 1e7}.items()]
    ranks = dict.fromkeys(("bob", "eve", "zoe"), 2)
    state = ServerState(0, SERVER.adapter, ranks, dict.fromkeys(ranks, 1.0))
    forth, back = fold(sent, state=state), fold(sent[::-1], state=state)
    assert [update.client for update in back.received] == ["bob", "eve", "zoe"]
    assert forth.state.adapter.identical(back.state.adapter)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_client_that_diverged_is_left_out_by_name_and_the_others_count(value: float):
    result = fold([ANN, ClientUpdate("bob", line(6.0, value, head=22.0), 1.0)])
    assert dict(result.dropped) == {"bob": "NaN or infinite values in m.a after local training"}
    assert [update.client for update in result.received] == ["ann"]
    assert result.state.adapter.identical(fold([ANN]).state.adapter)


def test_without_a_good_update_the_adapter_stays_and_the_round_counts():
    result = fold([ClientUpdate("ann", line(math.nan, head=0.0), 3.0)])
    assert result.state.round == 5
    assert result.state.adapter is SERVER.adapter
    assert result.used == ()


def test_a_sum_that_overflows_does_not_reach_the_server():
    """2e38 is finite in float32, 3 * 2e38 is not: no client alone is at fault, and the last adapter stays."""
    updates = [ClientUpdate("ann", line(2e38, head=0.0), 3.0), BOB]
    result = fold(updates, local_head=False)
    assert result.state.adapter is SERVER.adapter
    assert result.state.round == 5
    assert set(result.dropped) == {"ann", "bob"}
    assert result.dropped["ann"] == "the round's sum overflows in m.a"


def test_local_heads_stay_with_their_clients():
    """Heads 14 and 22 become ann's and bob's own; the server's stays 10, and eve still has none."""
    result = fold([ANN, BOB], local_head=True)
    assert {client: own["head"].item() for client, own in result.state.personal.items()} == {"ann": 14.0, "bob": 22.0}
    assert result.state.adapter.dense["head"].tolist() == [10.0]
    assert all(not update.adapter.dense for update in result.received)
    assert rows(result.state.adapter) == [3.0, 8.0]


def test_a_client_that_diverged_keeps_the_head_it_had():
    """In the round after, bob's head would be NaN: his 22 stays."""
    first = fold([ANN, BOB], local_head=True).state
    second = fold([ClientUpdate("bob", line(6.0, 8.0, head=math.nan), 1.0)], state=first, local_head=True)
    assert second.state.personal["bob"]["head"].tolist() == [22.0]
    assert "head" in second.dropped["bob"]


ALL = frozenset({"a", "b", "head"})
A, B, HEAD = frozenset({"a"}), frozenset({"b"}), frozenset({"head"})
NONE: frozenset[str] = frozenset()

WAYS: dict[tuple[str, int], tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str]]] = {
    ("ffa", 1): (B | HEAD, B | HEAD, B | HEAD, NONE),  # A is known from the seed
    ("fedsvd", 1): (B | HEAD, B | HEAD, ALL, NONE),  # A comes anew from the server
    ("rolora", 1): (B | HEAD, B | HEAD, ALL, NONE),
    ("rolora", 2): (A | HEAD, A | HEAD, ALL, NONE),
    ("lora_a2", 1): (B | HEAD, B | HEAD, ALL, NONE),
    ("lora_a2", 2): (A | HEAD, A | HEAD, ALL, NONE),
    ("fedsa", 1): (ALL, A, A, B | HEAD),
    ("flora", 1): (ALL, ALL, HEAD, NONE),  # the fresh adapter is known from the seed
    ("florist", 1): (ALL, ALL, HEAD, NONE),
}
"""What is trained, sent, received and kept, where it is not everything, everything, everything and nothing."""


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_trained_and_what_travels(name: str, number: int):
    """Only rolora and lora_a2 alternate: their odd rounds are like the first, their even ones like the second."""
    turn = 2 - number % 2 if name in ("rolora", "lora_a2") else 1
    parts = parts_of(build(name), number, local_head=False)
    assert (parts.trains, parts.sends, parts.receives, parts.keeps) == WAYS.get((name, turn), (ALL, ALL, ALL, NONE))
    local = parts_of(build(name), number, local_head=True)
    assert local.trains == parts.trains
    assert local.keeps == parts.keeps | HEAD
    assert not (local.sends | local.receives) & HEAD


def state_of(
    *ranks: int, server_rank: int = 3, number: int = 4, base_rank: int = 0, seed: int = 0, scales: Sequence[float] = ()
) -> ServerState:
    """A server of a 3 x 5 layer and a head of 2, everything drawn; clients c0, c1, ... of the given ranks."""
    draw = torch.Generator().manual_seed(seed)

    def drawn(rank: int, scale: float) -> Factors:
        return Factors(torch.randn(rank, 5, generator=draw), torch.randn(3, rank, generator=draw), scale)

    adapter = Adapter({"m": drawn(server_rank, 2.0)}, {"head": torch.randn(2, generator=draw)})
    change = Adapter({"m": drawn(base_rank, 0.5)}) if base_rank else None
    names = [f"c{i}" for i in range(len(ranks))]
    of_clients = scales or [2.0] * len(ranks)
    return ServerState(
        number, adapter, dict(zip(names, ranks, strict=True)), dict(zip(names, of_clients, strict=True)), {}, change, 7
    )


def trained(state: ServerState, name: str, seed: int = 1) -> list[ClientUpdate]:
    """What clients send: their read-out with something drawn added to what is trained; weights 1, 2, 3, ..."""
    draw = torch.Generator().manual_seed(seed)
    method = build(name)
    trains = method.parts(state.round + 1).trains
    updates = []
    for i, client in enumerate(state.ranks):
        start = read_out(state, client, method).adapter
        f = start.modules["m"]
        a, b = (t + torch.randn(t.shape, generator=draw) for t in (f.a, f.b))
        factors = Factors(a if "a" in trains else f.a, b if "b" in trains else f.b, f.scale)
        head = {"head": torch.randn(2, generator=draw)}
        update = ClientUpdate(client, Adapter({"m": factors}, head), i + 1.0, excess=0.0)
        if method.info.chooses_indices:
            update = chosen(update, m=range(f.rank - state.ranks[client], f.rank))
        updates.append(update)
    return updates


def chosen(update: ClientUpdate, **indices: Sequence[int]) -> ClientUpdate:
    """What a client sends that trained these rank indices alone."""
    own = {name: tuple(some) for name, some in indices.items()}
    return replace(update, adapter=update.adapter.picked(own), indices=own)


def other(update: ClientUpdate, parts: frozenset[str]) -> ClientUpdate:
    """The update with other values in some parts."""
    f = update.adapter.modules["m"]
    factors = Factors(2 * f.a + 1 if "a" in parts else f.a, 2 * f.b + 1 if "b" in parts else f.b, f.scale)
    dense = {n: t + 1 if "head" in parts else t for n, t in update.adapter.dense.items()}
    return replace(update, adapter=Adapter({"m": factors}, dense))


def same_server(one: ServerState, another: ServerState) -> bool:
    changes = (one.base_change, another.base_change)
    same = changes == (None, None) or (all(changes) and changes[0].identical(changes[1]))
    return bool(same) and one.adapter.identical(another.adapter)


@pytest.mark.parametrize("local_head", [False, True])
@pytest.mark.parametrize("number", [5, 6])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_not_sent_does_not_reach_the_server_and_what_is_sent_does(name: str, number: int, local_head: bool):
    """In every client's update all that is not sent is something else: the same server, bit for bit.

    Something else in any one part that is sent: another server.
    """
    ranks = (3, 3, 3) if METHODS[name].info.equal_ranks else (1, 3, 2)
    state = state_of(*ranks, number=number - 1, scales=(2.0, 0.5, 1.0))
    sends = parts_of(build(name), number, local_head=local_head).sends
    sent = trained(state, name)
    after = fold(sent, state=state, method=name, local_head=local_head).state
    unsent = [other(update, ALL - sends) for update in sent]
    assert same_server(fold(unsent, state=state, method=name, local_head=local_head).state, after)
    for part in sends:
        changed = [other(update, frozenset({part})) for update in sent]
        assert not same_server(fold(changed, state=state, method=name, local_head=local_head).state, after)


@pytest.mark.parametrize(
    ("name", "number", "up", "down"),
    [
        ("replication", 1, 72, 72),
        ("ffa", 1, 32, 32),  # B and head
        ("fedsvd", 1, 32, 72),  # B and head; everything
        ("rolora", 1, 32, 72),
        ("rolora", 2, 48, 72),  # A and head; everything
        ("fedsa", 1, 40, 40),  # A
        ("flora", 1, 72, 8 + 128),  # everything; the head and the base change
        ("florist", 1, 72, 8 + 128),
        ("fedhl", 1, 72, 72),  # the base change stays with the server
        ("replication+", 1, 72, 72 + 128),  # a base change from elsewhere goes to everyone
    ],
)
def test_bytes_of_a_client_of_rank_2(name: str, number: int, up: int, down: int):
    """A: 2 x 5 numbers of 4 bytes, 40. B: 3 x 2, 24. Head: 2, 8. A base change of rank 4: 4 x 5 + 3 x 4, 128."""
    method = build(name.rstrip("+"))
    changed = method.info.changes_base or name.endswith("+")
    state = state_of(2, base_rank=4 if changed else 0)
    parts = parts_of(method, number, local_head=False)
    sent = read_out(state, "c0", method)
    assert nbytes(sent.adapter, parts.receives, sent.base_change) == down
    assert nbytes(sent.adapter, parts.sends) == up


@pytest.mark.parametrize(("rank", "base"), [(1, 96), (2, 96), (3, 64)])
def test_fedex_sends_every_rank_class_its_own_base_change(rank: int, base: int):
    """The base change has rank 2: 2 (5 + 3) 4 = 64 bytes. The 2 or 1 rank indices beyond the client's rank make it 4 or
    3, which a layer of 3 x 5 holds in rank 3: 96 bytes. Adapter 32 r and head 8 bytes."""
    state = state_of(rank, base_rank=2)
    sent = read_out(state, "c0", build("fedex"))
    assert nbytes(sent.adapter, ALL, sent.base_change) == 32 * rank + 8 + base
    assert sent.base_change is not None
    delta = sent.adapter.modules["m"].delta() + sent.base_change.modules["m"].delta()
    torch.testing.assert_close(delta, global_model(state).modules["m"].delta(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedsa"}))
def test_methods_that_keep_nothing_leave_nothing_with_the_clients(name: str):
    state = state_of(3, 3, 3)
    assert fold(trained(state, name), state=state, method=name).state.personal == {}


def test_fedsa_keeps_b_and_head_with_the_client_and_gives_them_back():
    """bob goes on from his own B and head and the server's new A; eve, who has not trained, from what is read out."""
    state = state_of(2, 3, 1)
    bob, _, _ = trained(state, "fedsa")
    after = fold([bob], state=state, method="fedsa").state
    assert set(after.personal) == {"c0"}
    assert dict(after.personal["c0"]) == kept_by(bob, B | HEAD)
    assert set(after.personal["c0"]) == {"m.b", "head"}
    mine = personalise(after, "c0", read_out(after, "c0", build("fedsa"))).adapter
    assert torch.equal(mine.modules["m"].b, bob.adapter.modules["m"].b)
    assert torch.equal(mine.dense["head"], bob.adapter.dense["head"])
    assert torch.equal(mine.modules["m"].a, after.adapter.modules["m"].a[:2])
    assert torch.equal(mine.modules["m"].a, bob.adapter.modules["m"].a)  # the rows' only owner
    started = read_out(after, "c2", build("fedsa"))
    assert personalise(after, "c2", started) is started
    assert torch.equal(after.adapter.modules["m"].b, state.adapter.modules["m"].b)
    assert torch.equal(after.adapter.dense["head"], state.adapter.dense["head"])


def test_a_client_that_is_pruned_keeps_the_rest_of_its_own_delta():
    """B of rank 2 under scale 2 becomes its first column times 2 / 4 under scale 4; head and eve stay as they are."""
    b, head = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([7.0, 8.0])
    state = state_of(2, 3)
    own = {"c0": {"m.b": b, "head": head}, "c1": {"m.b": torch.ones(3, 3), "m.a": torch.ones(3, 5)}}
    state = ServerState(4, state.adapter, state.ranks, state.scales, own)
    after = with_ranks(state, {"c0": 1, "c1": 3}, {"c0": 4.0, "c1": 2.0})
    assert (after.ranks, after.scales) == ({"c0": 1, "c1": 3}, {"c0": 4.0, "c1": 2.0})
    assert after.personal["c0"]["m.b"].tolist() == [[0.5], [1.5], [2.5]]
    assert torch.equal(after.personal["c0"]["head"], head)
    assert all(torch.equal(t, own["c1"][name]) for name, t in after.personal["c1"].items())
    assert state.personal["c0"]["m.b"] is b
    assert with_ranks(state, {"c0": 2, "c1": 1}, state.scales).personal["c1"]["m.a"].shape == (1, 5)
    assert personalise(after, "c0", read_out(after, "c0", build("fedsa"))).adapter.modules["m"].delta().shape == (3, 5)


def test_a_method_that_needs_no_base_change_keeps_one_that_is_there():
    state = state_of(3, 3, base_rank=2)
    for name in set(METHODS) - {name for name in METHODS if METHODS[name].info.changes_base}:
        assert fold(trained(state, name), state=state, method=name).state.base_change is state.base_change


@pytest.mark.parametrize("local_head", [False, True])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_lets_an_overflow_reach_the_server(name: str, local_head: bool):
    """Values of 2e38 are finite in float32; three times two of them is not, nor is any product of two."""
    state = state_of(3, 3, base_rank=3)
    starts = {client: read_out(state, client, build(name)).adapter for client in state.ranks}
    large = {client: start.map(lambda t: torch.full_like(t, 2e38)) for client, start in starts.items()}
    updates = [ClientUpdate(client, adapter, 2.0, excess=0.0) for client, adapter in large.items()]
    result = fold(updates, state=state, method=name, local_head=local_head)
    assert result.state.round == 5
    assert result.state.adapter is state.adapter
    assert result.state.base_change is state.base_change
    assert result.state.personal == {}
    assert set(result.dropped) == {"c0", "c1"}
    assert all(reason.startswith("the round's sum overflows in ") for reason in result.dropped.values())


@pytest.mark.parametrize(
    ("indices", "rows", "reason"),
    [
        ({"m": (0, 2)}, 2, ""),
        (
            {"m": (2, 0)},
            2,
            r"chose the rank indices \[2, 0\] of m for 2 rows; expected as many, ascending, from 0 to 2",
        ),
        ({"m": (0, 0)}, 2, r"chose the rank indices \[0, 0\]"),
        ({"m": (0, 3)}, 2, r"chose the rank indices \[0, 3\]"),
        ({"m": (-1, 1)}, 2, r"chose the rank indices \[-1, 1\]"),
        ({"m": (0, 2)}, 1, r"chose the rank indices \[0, 2\] of m for 1 rows"),
        ({"n": (0, 2)}, 2, r"chose rank indices of \['n'\]; expected each of its modules"),
        ({}, 2, r"chose rank indices of \[\]; expected each of its modules"),
    ],
)
def test_rank_indices_that_were_chosen_are_checked(indices: dict[str, tuple[int, ...]], rows: int, reason: str):
    state = state_of(2)
    sent = read_out(state, "c0", build("lora_a2")).adapter
    adapter = Adapter({"m": sent.modules["m"].prefix(rows)}, sent.dense)
    update = ClientUpdate("c0", adapter, 1.0, indices=indices)
    found = accepted(update, sent, B | HEAD, uniform=False, chooses=True)
    assert isinstance(found, str) == bool(reason)
    if isinstance(found, str):
        assert re.search(reason, found)
    else:
        assert torch.equal(found.adapter.modules["m"].a, sent.modules["m"].a[[0, 2]])  # not sent: the server's own


def test_rank_indices_that_nobody_asked_for_are_refused():
    """Left out by name where updates come in, an error in the sums themselves; and so is one more than the budget."""
    state = state_of(2, 3)
    update = chosen(trained(state, "owner_mean")[1], m=(0, 2))
    result = fold([update], state=state, method="owner_mean")
    assert "chose rank indices, and the method does not ask for that" in result.dropped["c1"]
    for name in ("owner_mean", "flexlora", "shrinkage"):
        kernel = build(name).start(state, {"m": (2, 3)})
        with pytest.raises(AdapterError, match="does not ask for that"):
            kernel.check(update)
    more = chosen(ClientUpdate("c0", read_out(state, "c0", build("lora_a2")).adapter, 1.0), m=(0, 1, 2))
    with pytest.raises(AdapterError, match="client c0 sent 3 rank indices; expected at most 2 in all"):
        build("lora_a2").start(state, {"m": (2, 3)}).check(more)


def test_an_update_in_whole_has_what_was_sent_where_nothing_was_trained():
    state = state_of(2)
    sent = read_out(state, "c0", build("lora_a2")).adapter
    moved = sent.map(lambda tensor: tensor + 1)
    whole = in_whole(chosen(ClientUpdate("c0", moved, 1.0), m=(0, 2)), sent).adapter.modules["m"]
    assert torch.equal(whole.a[[0, 2]], moved.modules["m"].a[[0, 2]])
    assert torch.equal(whole.a[1], sent.modules["m"].a[1])
    assert torch.equal(whole.b[:, [0, 2]], moved.modules["m"].b[:, [0, 2]])
    assert torch.equal(whole.b[:, 1], sent.modules["m"].b[:, 1])
    plain = ClientUpdate("c0", moved, 1.0)
    assert in_whole(plain, sent) is plain


def test_the_global_model_is_adapter_and_base_change():
    """1 x 1: 2 (1*1 + 4*4) = 34 at scale 2, and 0.5 (3 * 5) = 7.5 beside it: 41.5, of rank 3 at scale 2."""
    change = Adapter({"m": Factors(torch.tensor([[3.0]]), torch.tensor([[5.0]]), 0.5)})
    state = ServerState(0, line(1.0, 4.0, scale=2.0, head=10.0), {}, {}, base_change=change)
    whole = global_model(state)
    assert whole.modules["m"].delta().item() == 41.5
    assert (whole.modules["m"].rank, whole.modules["m"].scale) == (3, 2.0)
    assert whole.dense["head"].tolist() == [10.0]


def test_the_global_model_without_a_base_change_is_the_adapter():
    assert global_model(SERVER) is SERVER.adapter


def test_modules_that_the_base_change_lacks_are_the_adapters():
    two = Adapter({"m": line(1.0).modules["m"], "n": line(2.0).modules["m"]})
    state = ServerState(0, two, {}, {}, base_change=Adapter({"n": line(3.0).modules["m"]}))
    whole = global_model(state)
    assert whole.modules["m"] is two.modules["m"]
    assert whole.modules["n"].delta().item() == 4.0 + 9.0


def test_the_global_model_keeps_the_adapters_dtype():
    half = line(1.0, 4.0).map(lambda t: t.to(torch.bfloat16))
    whole = global_model(ServerState(0, half, {}, {}, base_change=line(3.0)))
    assert {tensor.dtype for _, tensor in whole.tensors()} == {torch.bfloat16}
    assert whole.modules["m"].delta().item() == 26.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("flora", 7.5), ("replication", 7.5), ("fedex", 7.5 + 0.75 * 32), ("fedhl", None)],
)
def test_the_mean_of_the_base_changes_that_clients_were_sent(name: str, expected: float | None):
    """1 x 1, base change 7.5. fedex: ann of rank 1 and three quarters of the weight also got the other rank index,
    2 * 4 * 4 = 32, frozen; bob of rank 2 did not. fedhl sends none."""
    change = Adapter({"m": Factors(torch.tensor([[3.0]]), torch.tensor([[5.0]]), 0.5)})
    state = ServerState(0, line(1.0, 4.0, scale=2.0), {"ann": 1, "bob": 2}, {"ann": 2.0, "bob": 2.0}, {}, change)
    updates = [ClientUpdate("ann", line(2.0), 3.0), ClientUpdate("bob", line(6.0, 8.0), 1.0)]
    found = mean_base_change(updates, read_outs(state, state.ranks, build(name)))
    assert (found and found.modules["m"].delta().item()) == (expected if expected is None else pytest.approx(expected))


def test_the_mean_of_base_changes_that_clients_of_one_rank_were_sent_each_its_own():
    """1 x 1, rank indices of 2 * 1 and 2 * 16: whoever trains one was sent the other, half of the weight or not."""
    ranks = {f"client {i}": 1 for i in range(8)}
    state = ServerState(0, line(1.0, 4.0, scale=2.0), ranks, dict.fromkeys(ranks, 2.0))
    method = build("fed_plora")
    sent = read_outs(state, ranks, method)
    updates = [ClientUpdate(client, line(2.0), i + 1.0) for i, client in enumerate(ranks)]
    trains = {client: int(method.indices(state, client, {"m": 1})["m"]) for client in ranks}
    assert set(trains.values()) == {0, 1}
    found = mean_base_change(updates, sent)
    assert found is not None
    expected = sum((32 if trains[one.client] == 0 else 2) * one.weight / 36 for one in updates)
    assert found.modules["m"].delta().item() == pytest.approx(expected, rel=1e-6)


def test_a_sketch_is_scaled_up_and_comes_back_as_rows_of_the_global_adapter():
    """Rank 1 of 2 at the client's scale 4, of a server of scale 2: 8 in training. Unchanged, it changes nothing."""
    state = ServerState(0, line(1.0, 4.0, scale=2.0), {"ann": 1}, {"ann": 4.0})
    method = build("fslora")
    (kept,) = method.indices(state, "ann", {"m": 1})["m"].tolist()
    own = read_out(state, "ann", method).adapter
    value = (1.0, 4.0)[kept]
    assert own.modules["m"].scale == 8.0
    assert (own.modules["m"].a.item(), own.modules["m"].b.item()) == (value, value / 2)
    after = fold([ClientUpdate("ann", own, 3.0)], state=state, method="fslora").state
    assert after.adapter.identical(state.adapter)
    moved = own.replaced({"m.b": own.modules["m"].b + 1.0})
    after = fold([ClientUpdate("ann", moved, 3.0)], state=state, method="fslora").state
    expected = [1.0, 4.0]
    expected[kept] += 2.0  # a column of B of 1 at the client's scale is one of 2 at the server's
    assert after.adapter.modules["m"].b.flatten().tolist() == expected


def test_without_any_base_change_their_mean_is_none():
    updates = [ClientUpdate("bob", line(6.0, 8.0), 1.0)]
    assert mean_base_change(updates, read_outs(SERVER, SERVER.ranks, build("flora"))) is None
