from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyrank.aggregation.base_change import check_max_rank, replaced, terms_of
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError

Term = tuple[float, Tensor, Tensor]


def _term(seed: int, c: float, rank: int, layer: tuple[int, int], dtype: torch.dtype = torch.float64) -> Term:
    (d_out, d_in), numbers = layer, np.random.default_rng(seed)
    a, b = (torch.from_numpy(numbers.standard_normal(s)).to(dtype) for s in ((rank, d_in), (d_out, rank)))
    return c, a, b


def _diagonal(*values: float, c: float = 1.0) -> Term:
    n = len(values)
    return c, torch.eye(n, dtype=torch.float64), torch.diag(torch.tensor(values, dtype=torch.float64))


def test_on_the_meta_device_it_is_of_the_shapes_of_terms_that_do_not_cancel():
    """Stacked as far as the limit allows, and None for terms of nothing."""
    for ranks, max_rank in (((1, 2), None), ((3, 4), None), ((2, 2), 3)):
        terms = [_term(i, 1.0, rank, (6, 5)) for i, rank in enumerate(ranks)]
        real, _ = replaced({"m": terms}, max_rank)
        shapes, lost = replaced({"m": [(c, a.to("meta"), b.to("meta")) for c, a, b in terms]}, max_rank)
        assert real is not None
        assert shapes is not None
        assert [(n, t.shape, t.dtype) for n, t in shapes.tensors()] == [
            (n, t.shape, t.dtype) for n, t in real.tensors()
        ]
        assert lost == 0.0


def _sum(terms: list[Term]) -> np.ndarray:
    return sum(c * b.double().numpy() @ a.double().numpy() for c, a, b in terms)


@settings(deadline=None, max_examples=80)
@given(
    coefficients=st.lists(st.sampled_from([-2.0, 0.0, 0.3, 1.0, 50.0]), min_size=1, max_size=5),
    rank=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    max_rank=st.none() | st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_is_the_best_approximation_of_the_sum(
    coefficients: list[float], rank: int, shape: tuple[int, int], max_rank: int | None, seed: int
):
    """Error and report are the singular values beyond the limit, from numpy's SVD of the full sum."""
    terms = [_term(seed + k, c, rank, shape) for k, c in enumerate(coefficients)]
    dense = _sum(terms)
    change, error = replaced({"m": terms}, max_rank)
    if not any(coefficients):
        assert (change, error) == (None, 0.0)
        return
    s = np.linalg.svd(dense, compute_uv=False)
    limit = min(*shape, max_rank or 8)
    assert change is not None
    factors = change.modules["m"]
    assert factors.scale == 1.0
    assert factors.rank <= limit
    gap = np.linalg.norm(factors.delta().numpy() - dense)
    assert gap == pytest.approx(np.linalg.norm(s[limit:]), abs=1e-10 * np.linalg.norm(dense))
    assert error == pytest.approx(np.linalg.norm(s[limit:]) / np.linalg.norm(s), abs=1e-10)


def test_by_hand():
    """4 and 3 of one layer cut to 4, 12 of another kept: 3 of 13 is lost, 3/13 in all. Nothing comes of a third."""
    terms = {"q": [_diagonal(3.0, 0.0), _diagonal(0.0, 2.0, c=2.0)], "v": [_diagonal(12.0)], "k": [], "o": []}
    change, error = replaced(terms, 1)
    assert change is not None
    assert set(change.modules) == {"q", "v"}
    np.testing.assert_allclose(change.modules["q"].delta(), [[0, 0], [0, 4]], atol=1e-12)
    assert error == pytest.approx(3 / 13, rel=1e-12)


def test_below_the_limit_the_stack_stays_as_it_is():
    """Ranks add up, and no SVD comes in between: what cancels is kept too."""
    one = _term(0, 1.0, 2, (6, 7))
    change, error = replaced({"m": [one, (-1.0, one[1], one[2])]}, None)
    assert change is not None
    assert change.modules["m"].rank == 4
    assert change.modules["m"].norm() == pytest.approx(0.0, abs=1e-6)
    assert error == 0.0


def test_what_cancels_is_no_loss():
    """Above the limit, rounding is told from what was there: else a cut of noise would be an error of 0.5 or so."""
    one, other = _term(0, 1.0, 3, (6, 7)), _term(1, 0.5, 1, (6, 7))
    back = (-1.0, one[1], one[2])
    assert replaced({"m": [one, back]}, 2) == (None, 0.0)
    change, error = replaced({"m": [one, other, back]}, 2)
    assert change is not None
    assert change.modules["m"].rank == 1
    assert error == 0.0
    np.testing.assert_allclose(change.modules["m"].delta(), _sum([other]), atol=1e-12)


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_nothing_is_none(c: float):
    zero = torch.zeros(5, 3)
    assert replaced({"m": [(c, zero, torch.zeros(2, 5))]}, 1) == (None, 0.0)
    assert replaced({}, None) == (None, 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("max_rank", [None, 2])
def test_is_as_wide_as_sums_and_contiguous(dtype: torch.dtype, max_rank: int | None):
    change, _ = replaced({"m": [_term(0, 0.5, 3, (4, 5), dtype)]}, max_rank)
    assert change is not None
    factors = change.modules["m"]
    assert factors.a.dtype == factors.b.dtype == torch.promote_types(dtype, torch.float32)
    assert factors.a.is_contiguous()
    assert factors.b.is_contiguous()


def test_terms_are_left_as_they_are():
    terms = [_term(0, -2.0, 3, (4, 5)), _term(1, 0.0, 3, (4, 5))]
    kept = [(c, a.clone(), b.clone()) for c, a, b in terms]
    replaced({"m": terms}, 2)
    assert len(terms) == 2
    assert all(torch.equal(a, a2) and torch.equal(b, b2) for (_, a, b), (_, a2, b2) in zip(terms, kept, strict=True))


def test_terms_of_an_adapter():
    factors = Factors(torch.ones(1, 3), torch.ones(2, 1), 4.0)
    assert terms_of(Adapter({"m": factors}), "m") == [(4.0, factors.a, factors.b)]
    assert terms_of(Adapter({"m": factors}), "other") == []
    assert terms_of(None, "m") == []


def test_max_rank_must_leave_a_rank():
    check_max_rank("flora", None)
    check_max_rank("flora", 1)
    with pytest.raises(ConfigError, match="flora: max_rank is 0; expected a rank of 1 or more, or none for no limit"):
        check_max_rank("flora", 0)
