from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.diagnostics import aggregation_error, owners_weight
from polyrank.state import ClientUpdate
from tests.conformance.fixtures import EQUAL, UNEQUAL, Member, make
from tests.conformance.oracle import relative_errors


def _check(updates: tuple[ClientUpdate, ...], adapter: Adapter) -> None:
    expected = relative_errors(updates, adapter)
    found = aggregation_error(updates, adapter)
    assert found.total == pytest.approx(expected.pop(""), rel=1e-6)
    assert found.modules == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fixture", EQUAL | UNEQUAL)
def test_equals_the_dense_error(fixture: str):
    """The stacked rank is 22 to 36 on layers of 7 x 10 and 12 x 8 in all but the lone client's rounds."""
    it = (EQUAL | UNEQUAL)[fixture](torch.float64)
    _check(it.updates, it.server.adapter)


@settings(deadline=None, max_examples=30)
@given(
    clients=st.lists(
        st.tuples(st.floats(0.1, 100), st.integers(1, 4), st.sampled_from([0.5, 2.0])), min_size=1, max_size=4
    )
)
def test_equals_the_dense_error_for_any_clients(clients: list[tuple[float, int, float]]):
    """The stacked rank goes from far below the layers' size, where Gram matrices are used, to above it."""
    members = [Member.of(f"client {k}", *numbers) for k, numbers in enumerate(clients)]
    it = make(members, 2)
    _check(it.updates, it.server.adapter)


def _adapter(**values: float) -> Adapter:
    """Modules of one number each: delta = value * 1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return Adapter({name: Factors(one, value * one) for name, value in values.items()})


def test_by_hand():
    """q: the target is (3 * 1 + 1 * 5) / 4 = 2, the adapter has 3: off by 1/2. v: target 4, adapter 4: 0.

    In all: sqrt(1^2 + 0^2) / sqrt(2^2 + 4^2) = 1 / sqrt(20). The client of weight 0 is not in the target.
    """
    updates = [
        ClientUpdate("ann", _adapter(q=1.0, v=4.0), 3.0),
        ClientUpdate("bob", _adapter(q=5.0, v=4.0), 1.0),
        ClientUpdate("eve", _adapter(q=math.nan, v=math.inf), 0.0),
    ]
    error = aggregation_error(updates, _adapter(q=3.0, v=4.0))
    assert error.modules == pytest.approx({"q": 0.5, "v": 0.0}, abs=1e-7)
    assert error.total == pytest.approx(1 / math.sqrt(20), rel=1e-9)


def test_the_scale_counts_on_both_sides():
    """The target is 3 * 2 = 6, the adapter 4 * 3 = 12: off by 1."""
    one = torch.ones(1, 1)
    updates = [ClientUpdate("ann", Adapter({"m": Factors(one, 2 * one, 3.0)}), 7.0)]
    error = aggregation_error(updates, Adapter({"m": Factors(3 * one, one, 4.0)}))
    assert error.total == pytest.approx(1.0, rel=1e-9)


def test_a_target_of_zero():
    """No relative error exists: 0 where the adapter agrees, infinity where it does not; the other module counts."""
    updates = [ClientUpdate("ann", _adapter(q=0.0, v=0.0, k=2.0), 1.0)]
    error = aggregation_error(updates, _adapter(q=0.0, v=1.0, k=2.0))
    assert error.modules["q"] == 0.0
    assert error.modules["v"] == math.inf
    assert error.modules["k"] == pytest.approx(0.0, abs=1e-7)
    assert error.total == pytest.approx(0.5, rel=1e-9)  # |0, 1, 0| / |0, 0, 2|
    assert aggregation_error(updates[:1], _adapter(q=0.0)).total == 0.0


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_without_weight_the_target_is_zero(weights: list[float]):
    updates = [ClientUpdate("ann", _adapter(q=2.0), weight) for weight in weights]
    assert aggregation_error(updates, _adapter(q=1.0)).total == math.inf
    assert aggregation_error(updates, _adapter(q=0.0)).total == 0.0


def test_half_precision_is_measured_in_double():
    """60000 and 60000 add up to 120000, which float16 cannot hold; the mean is the adapter's own value."""
    one = torch.ones(1, 1, dtype=torch.float16)
    adapter = Adapter({"m": Factors(one, 60000 * one)})
    error = aggregation_error([ClientUpdate(name, adapter, 1.0) for name in ("ann", "bob")], adapter)
    assert error.total == pytest.approx(0.0, abs=1e-7)


def _ranks(q: int, v: int) -> Adapter:
    return Adapter({n: Factors(torch.ones(r, 3), torch.ones(4, r)) for n, r in {"q": q, "v": v}.items()})


def test_owners_weight_by_hand():
    """Weights 3, 1, 0, ranks 1, 2, 4: index 0 is owned by 4/4, index 1 by 1/4, the others by nobody that counts."""
    updates = [
        ClientUpdate("ann", _ranks(1, 1), 3.0),
        ClientUpdate("bob", _ranks(2, 2), 1.0),
        ClientUpdate("eve", _ranks(4, 4), 0.0),
    ]
    assert owners_weight(updates, 4) == [1.0, 0.25, 0.0, 0.0]


def test_owners_weight_is_a_mean_over_modules():
    """Index 1 is owned by all in q and by half in v: 3/4; index 2 by half in q only: 1/4."""
    updates = [ClientUpdate("ann", _ranks(2, 1), 2.0), ClientUpdate("bob", _ranks(3, 2), 2.0)]
    assert owners_weight(updates, 3) == [1.0, 0.75, 0.25]


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_owners_weight_without_weight(weights: list[float]):
    updates = [ClientUpdate("ann", _ranks(2, 2), weight) for weight in weights]
    assert owners_weight(updates, 3) == [0.0, 0.0, 0.0]
