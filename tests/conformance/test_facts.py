"""The facts of docs/methods.md, section 2, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.aggregation import METHODS, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.compare import same
from tests.conformance.fixtures import Member, Round, aggregate, make
from tests.conformance.oracle import plain, target


def line(*rows: float, scale: float = 1.0) -> Adapter:
    """An adapter of a 1 x 1 layer whose A and B both have the given numbers, one for each rank index."""
    a = torch.tensor(rows, dtype=torch.float64)[:, None]
    return Adapter({"m": Factors(a, a.T.clone(), scale)})


def server(*rows: float) -> ServerState:
    return ServerState(1, line(*rows), {}, {})


def send(*clients: tuple[float, Adapter]) -> list[ClientUpdate]:
    return [ClientUpdate(f"client {k}", adapter, weight) for k, (weight, adapter) in enumerate(clients)]


def rows_after(name: str, state: ServerState, updates: Sequence[ClientUpdate], **options: object) -> list[float]:
    """The rows of A after one round, once it is clear that the columns of B are the same."""
    factors = aggregate(build(name, options), state, updates).modules["m"]
    assert torch.equal(factors.a, factors.b.T)
    return factors.a.flatten().tolist()


UPDATES = send((3.0, line(2.0)), (1.0, line(6.0, 8.0)))
"""Weights 3 and 1, ranks 1 and 2: row 0 has both owners, row 1 the second one, with a quarter of the weight."""


@pytest.mark.parametrize(
    ("name", "options", "row_0", "row_1", "row_2"),
    [
        ("zero_padding", {}, 3.0, 2.0, 0.0),
        ("zero_padding", {"keep_unowned": True}, 3.0, 2.0, -5.0),
        ("zero_padding", {"min_owners": 2}, 3.0, 4.0, -5.0),
        ("zero_padding_delta", {}, 3.0, 5.0, -5.0),
        ("replication", {}, 3.0, 8.0, -5.0),
        ("replication", {"donor": "owners"}, 3.0, 8.0, -5.0),
        ("owner_mean", {}, 3.0, 8.0, -5.0),
        ("owner_mean", {"min_owners": 2}, 3.0, 4.0, -5.0),
        ("owner_mean", {"min_owners": 3}, 1.0, 4.0, -5.0),
        ("tempered", {}, 3.0, 6.0, -5.0),
        ("tempered", {"gamma": 2.0}, 3.0, 4.25, -5.0),
    ],
)
def test_three_rows_by_hand(name: str, options: dict[str, object], row_0: float, row_1: float, row_2: float):
    """The previous rows are 1, 4 and -5.

    Row 0: (3 * 2 + 1 * 6) / 4 = 3 in every method, as nobody lacks it. Row 1: the one owner's 8 in owner_mean and
    replication; 8 / 4 = 2 with zeros; 4 + (8 - 4) / 4 = 5 with changes; tempered takes theta = (1/4) ** 0.5 = 1/2 of
    the way from 4 to 8, so 6, or (1/4) ** 2 = 1/16 of it, so 4.25. Row 2: nobody has it, so it stays, and is 0 in the
    published zero padding. Rows of fewer than min_owners owners stay.
    """
    found = rows_after(name, server(1.0, 4.0, -5.0), UPDATES, **options)
    assert found == pytest.approx([row_0, row_1, row_2], rel=1e-14)


def test_replication_from_the_highest_differs_from_three_levels_on_by_hand():
    """Ranks 1, 2, 3, equal weights; row 1 is 4 and 10 with its owners.

    From the owners the client that lacks it gets 7: (4 + 10 + 7) / 3 = 7. From the highest it gets 10:
    (4 + 10 + 10) / 3 = 8. Row 2 is the third client's in both.
    """
    updates = send((1.0, line(1.0)), (1.0, line(1.0, 4.0)), (1.0, line(1.0, 10.0, 9.0)))
    assert rows_after("replication", server(0, 0, 0), updates, donor="owners") == pytest.approx([1, 7, 9], rel=1e-14)
    assert rows_after("replication", server(0, 0, 0), updates, donor="highest") == pytest.approx([1, 8, 9], rel=1e-14)


_weights = st.just(0.0) | st.floats(0.01, 1000)


def _round(ranks: Sequence[int], weights: Sequence[float], seed: int) -> Round:
    members = [
        Member.of(f"client {k}", weight, rank, 1.0 + k)
        for k, (rank, weight) in enumerate(zip(ranks, weights, strict=True))
    ]
    return make(members, 6, seed=seed)


def _result(name: str, it: Round, **options: object) -> Adapter:
    return aggregate(build(name, options), it.server, it.updates)


@settings(deadline=None, max_examples=40)
@given(clients=st.lists(st.tuples(st.integers(1, 6), _weights), max_size=6), seed=st.integers(0, 99))
def test_replication_from_owners_is_owner_mean(clients: list[tuple[int, float]], seed: int):
    it = _round([rank for rank, _ in clients], [weight for _, weight in clients], seed)
    same(_result("replication", it, donor="owners"), _result("owner_mean", it))


@settings(deadline=None, max_examples=40)
@given(
    low=st.integers(1, 5),
    clients=st.lists(st.tuples(st.booleans(), _weights), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_replication_from_the_highest_is_owner_mean_for_two_levels(
    low: int, clients: list[tuple[bool, float]], seed: int
):
    it = _round([6 if high else low for high, _ in clients], [weight for _, weight in clients], seed)
    same(_result("replication", it, donor="highest"), _result("owner_mean", it))


@pytest.mark.parametrize("seed", range(5))
def test_replication_from_the_highest_differs_from_owner_mean_for_three_levels(seed: int):
    """On random factors by more than a hundredth of the product's norm, in every module."""
    it = _round([1, 1, 3, 3, 6], [4.0, 3.0, 2.0, 5.0, 3.0], seed)
    highest, owners = (plain(_result("replication", it, donor=donor)) for donor in ("highest", "owners"))
    for module in owners.a:
        gap = np.linalg.norm(highest.delta(module) - owners.delta(module))
        assert gap > 0.01 * np.linalg.norm(owners.delta(module))


@pytest.mark.parametrize(
    ("options", "wiped"), [({}, 0.0), ({"keep_unowned": True}, 0.0625)], ids=["published", "keep_unowned"]
)
def test_zero_padding_shrinks_a_row_by_its_share_each_round(options: dict[str, object], wiped: float):
    """Clients that change nothing, weights 3 and 1, ranks 1 and 2: the row of share q = 1/4 is 1, 1/4, 1/16.

    Its product is 1, q^2 = 1/16, q^4 = 1/256: with B A, not A alone, the layer forgets at the square of the share. In
    a third round without the second client nobody owns it: 0, or 1/16 once more where it is kept.
    """
    method, state = build("zero_padding", options), server(1.0, 1.0)
    for rounds in (1, 2):
        adapter = aggregate(method, state, send((3.0, state.adapter.prefix(1)), (1.0, state.adapter)))
        assert adapter.modules["m"].a.flatten().tolist() == [1.0, 0.25**rounds]
        assert adapter.modules["m"].delta().item() - 1.0 == pytest.approx(0.25 ** (2 * rounds), rel=1e-14)
        state = ServerState(1 + rounds, adapter, {}, {})
    assert rows_after("zero_padding", state, send((3.0, state.adapter.prefix(1))), **options) == [1.0, wiped]


_any_round = st.builds(
    _round,
    st.lists(st.integers(1, 6), min_size=4, max_size=4),
    st.lists(_weights, min_size=4, max_size=4),
    st.integers(0, 99),
)


@settings(deadline=None, max_examples=40)
@given(it=_any_round)
def test_tempered_lies_between_owner_mean_and_zero_padding_delta(it: Round):
    """``gamma = 0`` is the one, ``gamma = 1`` the other."""
    same(_result("tempered", it, gamma=0.0), _result("owner_mean", it))
    same(_result("tempered", it, gamma=1.0), _result("zero_padding_delta", it))


def test_shrinkage_by_hand():
    """Two clients of weight 1, rows of one number, previous rows 0 and 0.

    Row 0 is 3 and 5 with its owners: mean 4, C = 16, S = 1/2; deviations 1, so v = 1 / (1 - 1/2) = 2 and theta =
    1 - 2 * (1/2) / 16 = 15/16: 3.75. Row 1 is 2 with one owner: S = 1, C = 4, theta = 1 - 2/4 = 1/2: 1. A second round
    of clients that disagree more than they move, -1 and 3: mean 1, v = 4 / (1/2) = 8, 8 / 2 > 1: nothing moves.
    """
    agreeing = send((1.0, line(3.0)), (1.0, line(5.0, 2.0)))
    assert rows_after("shrinkage", server(0.0, 0.0), agreeing) == pytest.approx([3.75, 1.0], rel=1e-14)
    disagreeing = send((1.0, line(-1.0)), (1.0, line(3.0)))
    assert rows_after("shrinkage", server(0.0, 7.0), disagreeing) == [0.0, 7.0]


@pytest.mark.parametrize(("min_owners", "row_1"), [(1, 8 - 5 / 56), (3, 0.0)])
def test_shrinkage_does_not_shrink_a_row_for_what_another_is_kept_by(min_owners: int, row_1: float):
    """Ranks 1, 2 and 2, weights 1: row 0 is 3, 4 and 5, row 1 is 7 and 9 with its two owners; previous rows 0.

    Row 0: mean 4, deviations (1 + 0 + 1) / 3 = 2/3, S = 1/3. Row 1: mean 8, deviations 1, S = 1/2. So v =
    (2/3 + 1) / (2/3 + 1/2) = 10/7, and row 0 has theta = 1 - (10/7) / 3 / 16 = 163/168, whether row 1 may move or not:
    4 * 163/168 = 163/42. Row 1 moves to 8 (1 - (10/7) / 2 / 64) = 8 - 5/56, or stays.
    """
    updates = send((1.0, line(3.0)), (1.0, line(4.0, 7.0)), (1.0, line(5.0, 9.0)))
    found = rows_after("shrinkage", server(0.0, 0.0), updates, min_owners=min_owners)
    assert found == pytest.approx([163 / 42, row_1], rel=1e-14)


@pytest.mark.parametrize("weight", [1.0, 1e3, 1e9, 1e17, 1e300])
def test_shrinkage_of_two_owners_whose_weights_are_far_apart(weight: float):
    """Rows 3 and 5, weights w and 1, shares s and t: deviations s t 2^2, ``1 - S = 2 s t``, so v = 2 whatever w is.

    With w = 1: mean 4, theta = 1 - 2 (1/2) / 16 = 15/16: 3.75. For large w mean 3, S = 1, theta = 1 - 2/9: 7/3.
    """
    s = weight / (weight + 1)
    mean, squares = 3 * s + 5 * (1 - s), s**2 + (1 - s) ** 2
    for order in (1, -1):
        updates = send((weight, line(3.0)), (1.0, line(5.0)))[::order]
        found = rows_after("shrinkage", server(0.0), updates)
        assert found == pytest.approx([mean * (1 - 2 * squares / mean**2)], rel=1e-12)


def _two_layers(q: float, v: float, scale: float = 1.0, head: float = 0.0) -> Adapter:
    """Rank 1, two layers of shape 1 x 2, A = (1, 0) and B = q or v: their products have norm ``scale`` |q| or |v|."""
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    layers = {"q": q, "v": v}
    return Adapter(
        {name: Factors(a, torch.tensor([[b]], dtype=torch.float64), scale) for name, b in layers.items()},
        {"head": torch.tensor([head], dtype=torch.float64)},
    )


@pytest.mark.parametrize(
    ("per_layer", "q", "v"),
    [(False, (5 * 3 + 15 * 9) / 20, (5 * 4 + 15 * 12) / 20), (True, (3 * 3 + 9 * 9) / 12, (4 * 4 + 12 * 12) / 16)],
    ids=["client", "layer"],
)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_hetlora_weighs_by_norms(per_layer: bool, q: float, v: float, scale: float):
    """Client one has the norms 3 and 4, so 5 in all; client two 9 and 12, so 15. Numbers of examples do not count.

    The norms are those of ``s B A``: client two may have its B divided by its scale. The head is weighed by 5 and 15
    in both forms: (5 * 2 + 15 * 6) / 20 = 5.
    """
    state = ServerState(1, _two_layers(7.0, 7.0), {}, {})
    two = _two_layers(9.0 / scale, 12.0 / scale, scale, head=6.0)
    updates = send((70.0, _two_layers(3.0, 4.0, head=2.0)), (1.0, two))
    result = aggregate(build("hetlora", {"per_layer": per_layer}), state, updates)
    assert result.modules["q"].b.item() == pytest.approx(q, rel=1e-14)
    assert result.modules["v"].b.item() == pytest.approx(v, rel=1e-14)
    assert result.dense["head"].item() == pytest.approx(5.0, rel=1e-14)


def test_hetlora_takes_a_client_of_norm_zero_for_no_owner():
    """Row 1 is held by one client only, whose B is still 0: its weight is 0, so the row counts as unowned."""
    fresh = Adapter({"m": Factors(torch.full((2, 1), 9.0).double(), torch.zeros(1, 2).double())})
    updates = send((1.0, line(2.0)), (50.0, fresh))
    assert rows_after("hetlora", server(1.0, 4.0), updates) == [2.0, 0.0]
    assert rows_after("hetlora", server(1.0, 4.0), updates, keep_unowned=True) == [2.0, 4.0]


def test_hetlora_norm_is_of_the_product_not_of_the_factors():
    """Columns (3, 3) of B against rows (1, -1) of A cancel but for 3 - 2 = 1: weight 1, though the factors are large.

    With the other client of norm 3 (weight 3): A's row 0 is (1 * 1 + 3 * 1) / 4 = 1 and B's is (1 * 3 + 3 * 3) / 4 = 3;
    row 1 of A is (-2/3) / 4, B's 3 / 4.
    """
    a, b = torch.tensor([[1.0], [-2.0 / 3.0]]).double(), torch.tensor([[3.0, 3.0]]).double()
    small = Adapter({"m": Factors(a, b)})
    large = Adapter({"m": Factors(torch.ones(1, 1).double(), torch.full((1, 1), 3.0).double())})
    found = aggregate(build("hetlora"), server(0.0, 0.0), send((9.0, small), (9.0, large))).modules["m"]
    assert found.a.flatten().tolist() == pytest.approx([1.0, -1.0 / 6.0], rel=1e-6)
    assert found.b.flatten().tolist() == pytest.approx([3.0, 0.75], rel=1e-6)


def test_factors_are_brought_to_the_global_scale():
    """Global scale 2, client scales 6 and 1, both B = 5: B at the global scale is 15 and 2.5, the mean 8.75; A is 4."""
    a, b = torch.full((1, 1), 4.0).double(), torch.full((1, 1), 5.0).double()
    state = ServerState(1, Adapter({"m": Factors(a, b, 2.0)}), {}, {})
    updates = send((1.0, Adapter({"m": Factors(a, b, 6.0)})), (1.0, Adapter({"m": Factors(a, b, 1.0)})))
    for name in METHODS:
        if name != "hetlora" and METHODS[name].info.exact is False:
            found = aggregate(build(name), state, updates).modules["m"]
            assert (found.a.item(), found.b.item(), found.scale) == (4.0, 8.75, 2.0), name


def test_the_factor_mean_is_not_the_mean_of_products():
    """B = A = 1 and B = A = 3, equal weights: the factor mean gives 2 * 2 = 4, the mean of the products is 5."""
    updates = send((1.0, line(1.0)), (1.0, line(3.0)))
    found = aggregate(build("fedavg"), server(0.0), updates).modules["m"]
    assert found.delta().item() == 4.0
    assert target(updates)["m"].item() == 5.0
