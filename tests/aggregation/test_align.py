from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyrank.aggregation import METHODS, build, options
from polyrank.aggregation.align import Alignment, aligned
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import DTYPES, UNEQUAL, aggregate

HOW = pytest.mark.parametrize("how", ["rotation", "rectangular"])
ALIGNED = [name for name in METHODS if "align" in options(name)]


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _rotation(seed: int, rank: int) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(_normal(seed, rank, rank))[0]


def _server(factors: Factors) -> ServerState:
    return ServerState(1, Adapter({"m": factors}), {}, {})


def _align(reference: Factors, factors: Factors, how: Alignment) -> Factors:
    update = ClientUpdate("ann", Adapter({"m": factors}), 1.0)
    return aligned(update, _server(reference).adapter, how).adapter.modules["m"]


shapes = given(
    how=st.sampled_from(["rotation", "rectangular"]),
    rank=st.integers(1, 5),
    scale=st.sampled_from([0.25, 1.0, 3.0]),
    layer=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 99),
)


@settings(deadline=None, max_examples=60)
@shapes
def test_the_update_stays_and_q_has_orthonormal_rows(
    how: Alignment, rank: int, scale: float, layer: tuple[int, int], seed: int
):
    """Q is found from what came out: ``B' = B Q``, as B has full column rank. ``Q Q^T = I``, ``A' = Q^T A``."""
    d_out, d_in = layer
    reference = Factors(_normal(seed, 5, d_in), _normal(seed + 1, d_out, 5))
    mine = Factors(_normal(seed + 2, rank, d_in), _normal(seed + 3, d_out, rank), scale)
    aligned = _align(reference, mine, how)
    assert aligned.rank == (rank if how == "rotation" else 5)
    assert aligned.scale == scale
    torch.testing.assert_close(aligned.delta(), mine.delta())
    q = torch.linalg.lstsq(mine.b, aligned.b).solution
    torch.testing.assert_close(q @ q.T, torch.eye(rank, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(aligned.a, q.T @ mine.a, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=30)
@shapes
def test_no_other_rotation_brings_a_nearer_to_the_reference(
    how: Alignment, rank: int, scale: float, layer: tuple[int, int], seed: int
):
    """Twenty random ones of the same shape, far and near, are all farther."""
    d_out, d_in = layer
    reference = Factors(_normal(seed, 5, d_in), _normal(seed + 1, d_out, 5))
    mine = Factors(_normal(seed + 2, rank, d_in), _normal(seed + 3, d_out, rank), scale)
    aligned = _align(reference, mine, how)
    wanted = reference.a[: aligned.rank]
    gap = float((aligned.a - wanted).norm())
    for k in range(20):
        other = _rotation(100 * seed + k, aligned.rank)
        if k % 2:
            skew = 0.1 * _normal(100 * seed + k, aligned.rank, aligned.rank)
            other = torch.linalg.matrix_exp(skew - skew.T)
        assert float((other.T @ aligned.a - wanted).norm()) >= gap - 1e-9


@HOW
@pytest.mark.parametrize("seed", range(5))
def test_a_rotation_of_the_reference_comes_back_as_the_reference(how: Alignment, seed: int):
    """``(B Q, Q^T A)`` with the reference's own A and B; a client of a lower rank with a rotation of its prefix."""
    reference = Factors(_normal(seed, 5, 8), _normal(seed + 1, 7, 5), 2.0)
    q = _rotation(seed + 2, 5)
    found = _align(reference, Factors(q.T @ reference.a, reference.b @ q, 2.0), how)
    torch.testing.assert_close(found.a, reference.a)
    torch.testing.assert_close(found.b, reference.b)

    low, q = reference.prefix(3), _rotation(seed + 3, 3)
    found = _align(reference, Factors(q.T @ low.a, low.b @ q, 2.0), "rotation")
    torch.testing.assert_close(found.a, low.a)
    torch.testing.assert_close(found.b, low.b)


def test_rectangular_is_zero_padding_where_the_rows_are_orthonormal():
    """The client has the reference's first rows and these are orthonormal: M = [I 0], so Q = [I 0]."""
    reference = Factors(torch.eye(4, 6, dtype=torch.float64), _normal(0, 5, 4))
    mine = Factors(reference.a[:2], _normal(1, 5, 2))
    found = _align(reference, mine, "rectangular")
    torch.testing.assert_close(found.a, torch.cat([mine.a, torch.zeros(2, 6).double()]))
    torch.testing.assert_close(found.b, torch.cat([mine.b, torch.zeros(5, 2).double()], dim=1))


def test_by_hand():
    """One row: A = (0, 3) against the reference's (-2, 5) gives M = 15, so Q = 1; against (1, -5), Q = -1."""
    mine = Factors(torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0]]))
    for row, sign in (((-2.0, 5.0), 1.0), ((1.0, -5.0), -1.0)):
        found = _align(Factors(torch.tensor([row]), torch.ones(1, 1)), mine, "rotation")
        torch.testing.assert_close(found.a, sign * mine.a)
        torch.testing.assert_close(found.b, sign * mine.b)


@pytest.mark.parametrize("name", ALIGNED)
@HOW
def test_clients_that_learned_the_same_in_rotated_coordinates_do_not_cancel(how: Alignment, name: str):
    """All have the same update, each under a rotation of its own: aligned, the mean is that update, error 0.

    Without alignment the factor mean loses more than a tenth of it.
    """
    learned = Factors(_normal(0, 4, 9), _normal(1, 7, 4), 2.0)
    server = _server(Factors(learned.a, _normal(2, 7, 4), 2.0))
    updates = []
    for k in range(5):
        q = _rotation(10 + k, 4)
        updates.append(
            ClientUpdate(f"client {k}", Adapter({"m": Factors(q.T @ learned.a, learned.b @ q, 2.0)}), 1.0 + k)
        )
    found = aggregate(build(name, {"align": how}), server, updates).modules["m"]
    torch.testing.assert_close(found.delta(), learned.delta())
    lost = aggregate(build(name), server, updates).modules["m"].delta() - learned.delta()
    assert float(lost.norm()) > 0.1 * learned.norm()


def test_none_changes_nothing():
    for name in ALIGNED:
        assert build(name, {"align": "none"}) == build(name)


@HOW
def test_the_rest_of_an_update_stays(how: Alignment):
    it = UNEQUAL["module_ranks"](torch.float64)
    for update in it.updates:
        found = aligned(update, it.server.adapter, how)
        assert (found.client, found.weight, found.metrics) == (update.client, update.weight, update.metrics)
        assert found.adapter.dense is update.adapter.dense
        assert list(found.adapter.modules) == list(update.adapter.modules)


@HOW
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotated_in_float32_or_wider(how: Alignment, dtype: torch.dtype):
    """Rounding to bfloat16 once more would lose half of its bits; the sums take the wider factors as they are."""
    it = UNEQUAL["three_levels"](dtype)
    for factors in aligned(it.updates[1], it.server.adapter, how).adapter.modules.values():
        assert factors.a.dtype == factors.b.dtype == torch.promote_types(dtype, torch.float32)


@HOW
def test_a_reference_of_zero_still_keeps_the_update(how: Alignment):
    """Nothing to turn to: any Q will do, if it loses nothing."""
    mine = Factors(_normal(0, 2, 6), _normal(1, 5, 2), 3.0)
    found = _align(Factors(torch.zeros(4, 6).double(), torch.zeros(5, 4).double()), mine, how)
    torch.testing.assert_close(found.delta(), mine.delta())
