from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation import METHODS, build
from polyrank.errors import ConfigError
from polyrank.federation.round import (
    RoundResult,
    aggregate,
    check_ranks,
    cohort,
    personalise,
    problem,
    read_out,
    without_head,
)
from polyrank.state import ClientUpdate, ServerState


def line(*rows: float, scale: float = 1.0, head: float | None = None) -> Adapter:
    """An adapter of a 1 x 1 layer whose A and B both have the given numbers, one for each rank index."""
    a = torch.tensor(rows)[:, None]
    dense = {} if head is None else {"head": torch.tensor([head])}
    return Adapter({"m": Factors(a, a.T.clone(), scale)}, dense)


SERVER = ServerState(
    4, line(1.0, 4.0, head=10.0), {"ann": 1, "bob": 2, "eve": 2}, dict.fromkeys(("ann", "bob", "eve"), 1.0)
)


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
    return aggregate(state, updates, build(method), uniform=uniform, local_head=local_head)


ANN = ClientUpdate("ann", line(2.0, head=14.0), 3.0)
BOB = ClientUpdate("bob", line(6.0, 8.0, head=22.0), 1.0)


NAMES = [f"client-{i:02d}" for i in range(10)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 30), st.floats(0.01, 1), st.integers(1, 40))
def test_a_cohort_is_sorted_without_repeats_and_of_the_size_asked_for(
    seed: int, number: int, participation: float, clients: int
):
    names = [f"client-{i:02d}" for i in range(clients)]
    drawn = cohort(names, participation, seed, number)
    assert list(drawn) == sorted(set(drawn))
    assert set(drawn) <= set(names)
    assert len(drawn) == max(1, round(participation * clients))
    assert drawn == cohort(names[::-1], participation, seed, number)


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
    sent = read_out(SERVER, "ann", local_head=False)
    assert rows(sent) == [1.0]
    assert sent.dense["head"].tolist() == [10.0]
    assert rows(read_out(SERVER, "bob", local_head=False)) == [1.0, 4.0]


def test_a_local_head_is_not_sent():
    assert read_out(SERVER, "ann", local_head=True).dense == {}
    assert without_head(ANN).adapter.dense == {}
    assert without_head(ANN).adapter.modules is ANN.adapter.modules


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
    factors = read_out(state, "ann", local_head=False).modules["m"]
    assert factors.scale == of_client
    assert factors.b.flatten().tolist() == b
    assert factors.a.flatten().tolist() == [1.0]
    assert factors.delta().item() == of_server


def test_a_round_of_clients_that_learn_nothing_keeps_the_server_under_any_scales():
    """What goes out under other scales comes back under the server's: powers of two, so nothing is rounded."""
    state = ServerState(
        0, line(1.0, 5.0, 6.0, 7.0, scale=2.0), {"ann": 1, "bob": 4, "eve": 2}, {"ann": 8.0, "bob": 2.0, "eve": 4.0}
    )
    updates = [ClientUpdate(client, read_out(state, client, local_head=False), 1.0) for client in state.ranks]
    assert fold(updates, state=state).state.adapter.identical(state.adapter)


def test_a_client_trains_its_own_head_once_it_has_one():
    """At first the initial head, 10; after that its own, 7, and never another client's."""
    state = ServerState(1, SERVER.adapter, SERVER.ranks, SERVER.scales, personal={"bob": {"head": torch.tensor([7.0])}})
    for client, head in {"ann": 10.0, "bob": 7.0}.items():
        own = personalise(state, client, read_out(state, client, local_head=True))
        assert own.dense["head"].tolist() == [head]


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
    assert [update.weight for update in alike.used] == [1.0, 1.0]


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
    assert [update.client for update in back.used] == ["bob", "eve", "zoe"]
    assert forth.state.adapter.identical(back.state.adapter)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_client_that_diverged_is_left_out_by_name_and_the_others_count(value: float):
    result = fold([ANN, ClientUpdate("bob", line(6.0, value, head=22.0), 1.0)])
    assert dict(result.dropped) == {"bob": "NaN or infinite values in m.a after local training"}
    assert [update.client for update in result.used] == ["ann"]
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
    assert all(not update.adapter.dense for update in result.used)
    assert rows(result.state.adapter) == [3.0, 8.0]


def test_a_client_that_diverged_keeps_the_head_it_had():
    """In the round after, bob's head would be NaN: his 22 stays."""
    first = fold([ANN, BOB], local_head=True).state
    second = fold([ClientUpdate("bob", line(6.0, 8.0, head=math.nan), 1.0)], state=first, local_head=True)
    assert second.state.personal["bob"]["head"].tolist() == [22.0]
    assert "head" in second.dropped["bob"]
