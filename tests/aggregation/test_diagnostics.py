from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.aggregation.diagnostics import (
    aggregation_error,
    diagnose,
    drift,
    owners_weight,
    row_energy,
    spectrum,
)
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import EQUAL, UNEQUAL, Member, make
from tests.conformance.oracle import dense_base, plain, relative_errors, target


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


def test_owners_weight_of_rank_indices_that_were_drawn():
    """ann, of 3/4 of the weight, has index 2 in q and the first two in v; bob has index 0: 3/8 + 1/4, 3/8 and 3/8."""
    updates = [ClientUpdate("ann", _ranks(1, 2), 3.0), ClientUpdate("bob", _ranks(1, 1), 1.0)]
    drawn = {"ann": {"q": torch.tensor([2]), "v": torch.tensor([0, 1])}}
    assert owners_weight(updates, 3, drawn) == [0.375 + 0.25, 0.375, 0.375]


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_owners_weight_without_weight(weights: list[float]):
    updates = [ClientUpdate("ann", _ranks(2, 2), weight) for weight in weights]
    assert owners_weight(updates, 3) == [0.0, 0.0, 0.0]


def test_the_error_is_of_the_change_of_the_global_model():
    """Against the dense one: adapter and new base change, less what the clients were sent; in one layer a base only."""
    it = UNEQUAL["levels_after"](torch.float64)
    adapter, before = it.server.adapter, it.server.base_change
    assert before is not None
    after = Adapter({"layer.1.v": it.updates[0].adapter.modules["layer.1.v"]})
    wanted, found = target(it.updates), plain(adapter)
    new, old = dense_base(adapter, after), dense_base(adapter, before)
    gaps = {m: float(np.linalg.norm(found.delta(m) + new[m] - old[m] - wanted[m])) for m in wanted}
    sizes = {m: float(np.linalg.norm(wanted[m])) for m in wanted}
    error = aggregation_error(it.updates, adapter, after, before)
    assert error.modules == pytest.approx({m: gaps[m] / sizes[m] for m in gaps}, rel=1e-9)
    assert error.total == pytest.approx(math.hypot(*gaps.values()) / math.hypot(*sizes.values()), rel=1e-9)


def test_a_module_that_some_lack_is_averaged_over_those_who_have_it():
    """q from both: (3 * 1 + 1 * 5) / 4 = 2; v from the second alone: 4, not 1."""
    updates = [ClientUpdate("ann", _adapter(q=1.0), 3.0), ClientUpdate("bob", _adapter(q=5.0, v=4.0), 1.0)]
    assert aggregation_error(updates, _adapter(q=2.0, v=4.0)).total == pytest.approx(0.0, abs=1e-7)


def _diagonal(*values: float, scale: float = 1.0) -> Factors:
    b = torch.diag(torch.tensor(values, dtype=torch.float64))
    return Factors(torch.eye(len(values), dtype=torch.float64), b / scale, scale)


def test_spectrum_by_hand():
    """q: 3 and 3 and 0, two equal directions; v: 2, with a base change of 2 in another direction; k: nothing.

    Both have the effective rank 2, and half of the energy in the first singular value, all of it in the first two.
    """
    adapter = Adapter({"q": _diagonal(3.0, 3.0, 0.0, scale=0.5), "v": _diagonal(2.0, 0.0), "k": _diagonal(0.0)})
    change = Adapter({"v": _diagonal(0.0, 2.0)})
    shape = spectrum(adapter, change, 1)
    assert shape.effective_rank == pytest.approx(2.0, rel=1e-9)
    assert shape.energy_in_lowest == pytest.approx(0.5, rel=1e-9)
    assert spectrum(adapter, change, 2).energy_in_lowest == pytest.approx(1.0, rel=1e-9)
    assert spectrum(adapter, None, 1).effective_rank == pytest.approx(1.5, rel=1e-9)  # v has one direction left


def test_spectrum_of_nothing():
    shape = spectrum(Adapter({"q": _diagonal(0.0, 0.0)}), None, 1)
    assert (shape.effective_rank, shape.energy_in_lowest) == (0.0, 0.0)


def test_drift_by_hand():
    """From diag(3, 0) to diag(3, 4) is 4 of 5; standing still is 0; weights 3 and 1: (3 * 0.8 + 0) / 4 = 0.6.

    Scales count: the first client trains at scale 2. The client of weight 0 does not, though it has diverged.
    """
    started = {name: Adapter({"m": _diagonal(3.0, 0.0, scale=2.0)}) for name in ("ann", "bob", "eve")}
    updates = [
        ClientUpdate("ann", Adapter({"m": _diagonal(3.0, 4.0, scale=2.0)}), 3.0),
        ClientUpdate("bob", Adapter({"m": _diagonal(3.0, 0.0, scale=0.5)}), 1.0),
        ClientUpdate("eve", Adapter({"m": _diagonal(900.0, 900.0)}), 0.0),
    ]
    assert drift(updates, started) == pytest.approx(0.6, rel=1e-7)


def test_diagnose_is_all_of_it():
    """One layer of one number: the change is 6 + 1 - 2 = 5 against 4, so 1/4; from 2 to 4 is half the way of 4."""
    after = ServerState(1, _adapter(q=6.0), {}, {}, base_change=_adapter(q=1.0))
    updates = [ClientUpdate("ann", _adapter(q=4.0), 1.0)]
    found = diagnose(updates, {"ann": _adapter(q=2.0)}, _adapter(q=2.0), after, 1)
    assert found.pop("aggregation/error_by_module") == pytest.approx({"q": 0.25})
    assert found == pytest.approx(
        {"aggregation/error": 0.25, "rank/effective": 1.0, "rank/energy_in_lowest": 1.0, "clients/drift": 0.5}
    )


def test_row_energy_by_hand():
    """Scale 2, a rows (3, 4) and (0, 1), b columns (1, 0) and (2, 0): (2 * 1 * 5)^2 = 100 and (2 * 2 * 1)^2 = 16; the
    module of rank 1 adds (1 * 1 * 1)^2 to the first index."""
    wide = Factors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.0, 0.0]]), 2.0)
    narrow = Factors(torch.ones(1, 1), torch.ones(1, 1), 1.0)
    assert row_energy(Adapter({"wide": wide, "narrow": narrow})) == [101.0, 16.0]
