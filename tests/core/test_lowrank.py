from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyrank.core import lowrank

SHAPES = {"wide": (3, 5, 9), "tall": (3, 9, 5), "square": (3, 6, 6), "full": (5, 5, 9), "stacked": (12, 9, 5)}
"""Rank, d_out, d_in; the last one has a rank above the layer's size, where the dense product is used."""


def _factors(
    rank: int, d_out: int, d_in: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    b = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
    return a.to(dtype), b.to(dtype)


def _product(a: Tensor, b: Tensor) -> np.ndarray:
    return b.double().numpy() @ a.double().numpy()


def _check_svd(a: Tensor, b: Tensor) -> None:
    """Against numpy's SVD of the full product, and by what defines an SVD: orthonormal, descending, the product."""
    u, s, vt = lowrank.svd(a, b)
    dense = _product(a, b)
    m = min(a.shape[0], *dense.shape)
    size = 1.0 + np.linalg.norm(dense)
    assert (u.shape, s.shape, vt.shape) == ((len(dense), m), (m,), (m, dense.shape[1]))
    np.testing.assert_allclose(s, np.linalg.svd(dense, compute_uv=False)[:m], atol=1e-12 * size)
    np.testing.assert_allclose((u * s) @ vt, dense, atol=1e-12 * size)
    np.testing.assert_allclose(u.T @ u, np.eye(m), atol=1e-12)
    np.testing.assert_allclose(vt @ vt.T, np.eye(m), atol=1e-12)
    largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_svd_is_numpys(shape: tuple[int, int, int]):
    _check_svd(*_factors(*shape))


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)), st.integers(0, 99))
def test_svd_for_any_shape(shape: tuple[int, int, int], seed: int):
    _check_svd(*_factors(*shape, seed=seed))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_svd_of_a_product_of_lower_rank(shape: tuple[int, int, int]):
    """Two equal rows of A: singular values of 0 at the end, bases still orthonormal."""
    a, b = _factors(*shape)
    a[1] = a[0]
    _check_svd(a, b)


def test_svd_of_zero():
    a, b = _factors(2, 4, 3)
    _check_svd(a, torch.zeros_like(b))
    _check_svd(torch.zeros_like(a), torch.zeros_like(b))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_signs_do_not_depend_on_the_factors(shape: tuple[int, int, int]):
    """``(b q, q^-1 a)`` is the same product for every invertible q, so it has the same u and v, signs included."""
    a, b = _factors(*shape)
    mix = torch.randn(shape[0], shape[0], generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    u, s, vt = lowrank.svd(a, b)
    u2, s2, vt2 = lowrank.svd(torch.linalg.solve(mix, a), b @ mix)
    torch.testing.assert_close(s2, s, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(u2, u, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vt2, vt, rtol=1e-6, atol=1e-6)


def test_svd_signs_by_hand():
    """b a = [[-3, 0], [0, 2]]: the first left vector is (1, 0), so the first right one is (-1, 0)."""
    u, s, vt = lowrank.svd(torch.eye(2), torch.tensor([[-3.0, 0.0], [0.0, 2.0]]))
    torch.testing.assert_close(s, torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(u, torch.eye(2))
    torch.testing.assert_close(vt, torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_svd_runs_in_float32_for_narrow_factors(dtype: torch.dtype):
    a, b = _factors(3, 9, 5, dtype=dtype)
    u, s, vt = lowrank.svd(a, b)
    assert {u.dtype, s.dtype, vt.dtype} == {torch.float32}
    np.testing.assert_allclose((u * s) @ vt, _product(a, b), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 4, 7])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_truncate_drops_the_smallest_singular_values(shape: tuple[int, int, int], rank: int):
    """Eckart and Young: the error is the norm of the singular values that were dropped; the rank is as asked for."""
    a, b = _factors(*shape)
    dense = _product(a, b)
    s = np.linalg.svd(dense, compute_uv=False)
    out_a, out_b = lowrank.truncate(a, b, rank)
    assert (out_a.shape, out_b.shape) == ((rank, shape[2]), (shape[1], rank))
    gap = np.linalg.norm(_product(out_a, out_b) - dense)
    assert gap == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-9, abs=1e-12)
    kept = min(rank, *shape)
    np.testing.assert_allclose(out_a[:kept] @ out_a[:kept].T, np.eye(kept), atol=1e-12)  # all of s is on b
    np.testing.assert_allclose(np.linalg.norm(out_b, axis=0)[:kept], s[:kept], rtol=1e-9)
    assert not out_a[kept:].any()
    assert not out_b[:, kept:].any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_singular_values(shape: tuple[int, int, int]):
    a, b = _factors(*shape)
    expected = np.linalg.svd(_product(a, b), compute_uv=False)[: min(shape)]
    np.testing.assert_allclose(lowrank.singular_values(a, b), expected, rtol=1e-9)


_shape = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None, max_examples=60)
@given(_shape, st.integers(1, 8), st.integers(0, 99))
def test_norm_and_inner_are_those_of_the_products(shape: tuple[int, int, int], rank: int, seed: int):
    a, b = _factors(*shape, seed=seed)
    a2, b2 = _factors(rank, *shape[1:], seed=seed + 1)
    one, two = _product(a, b), _product(a2, b2)
    assert lowrank.norm(a, b) == pytest.approx(np.linalg.norm(one), rel=1e-7, abs=1e-7)
    size = np.linalg.norm(one) * np.linalg.norm(two)
    assert lowrank.inner(a, b, a2, b2) == pytest.approx((one * two).sum(), abs=1e-12 * (1 + size))


def test_norm_and_inner_by_hand():
    """(3, 4) from one column: norm 5 * |(1, 2, 2)| = 15; against (1, 0) (1, 0, 0): 3 * 1 = 3."""
    a, b = torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    assert lowrank.norm(a, b) == pytest.approx(15.0, rel=1e-12)
    assert lowrank.inner(a, b, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0], [0.0]])) == 3.0


def test_norm_of_what_cancels_is_small_and_real():
    """x - 0.3 x - 0.7 x: the Gram matrices' sum comes out a little below 0 for some x, which has no real root."""
    sums = []
    for seed in range(20):
        x = _factors(2, 9, 8, seed=seed)
        nothing = lowrank.stack([(1.0, *x), (-0.3, *x), (-0.7, *x)])
        sums.append(lowrank.inner(*nothing, *nothing))
        assert lowrank.norm(*nothing) == pytest.approx(0.0, abs=1e-6)
    assert min(sums) < 0


def test_norm_does_not_overflow_half_precision():
    """300 * 300 = 90000 is above float16's 65504; the norm of [[90000]] is 90000."""
    number = torch.full((1, 1), 300.0, dtype=torch.float16)
    assert lowrank.norm(number, number) == pytest.approx(90000.0, rel=1e-12)


_coefficients = st.lists(st.sampled_from([-2.0, -0.3, 0.0, 0.5, 1.0, 40.0]), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(_coefficients, st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_stack_is_the_sum(coefficients: list[float], d_out: int, d_in: int, seed: int):
    """Ranks 1, 2, 3, ... add up; negative coefficients too, which have no real root."""
    terms = [(c, *_factors(1 + k, d_out, d_in, seed=seed + k)) for k, c in enumerate(coefficients)]
    a, b = lowrank.stack(terms)
    assert a.shape[0] == b.shape[1] == sum(range(1, len(terms) + 1))
    expected = sum(c * _product(x, y) for c, x, y in terms)
    np.testing.assert_allclose(_product(a, b), expected, atol=1e-11)


def test_stack_by_hand():
    """-4 * 3 * 2: the root 2 on both sides and the sign on b, so a = 6 and b = -4."""
    a, b = lowrank.stack([(-4.0, torch.tensor([[3.0]]), torch.tensor([[2.0]]))])
    assert (a.item(), b.item()) == (6.0, -4.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_stack_is_wide(dtype: torch.dtype):
    a, b = lowrank.stack([(0.3, *_factors(2, 4, 3, dtype=dtype))])
    assert a.dtype == b.dtype == torch.promote_types(dtype, torch.float32)


@settings(deadline=None, max_examples=40)
@given(_shape, _coefficients, st.integers(0, 99))
def test_difference_norm_is_that_of_the_dense_difference(
    shape: tuple[int, int, int], coefficients: list[float], seed: int
):
    left = _factors(*shape, seed=seed)
    terms = [(c, *_factors(2, *shape[1:], seed=seed + 1 + k)) for k, c in enumerate(coefficients)]
    expected = np.linalg.norm(_product(*left) - sum(c * _product(x, y) for c, x, y in terms))
    assert lowrank.difference_norm(left, terms) == pytest.approx(expected, rel=1e-7, abs=1e-5)


def test_difference_norm_of_equals_is_zero_up_to_the_root_of_the_rounding():
    a, b = _factors(3, 30, 20, dtype=torch.bfloat16)
    assert lowrank.difference_norm((a, b), [(0.25, a, b), (0.75, a, b)]) < 1e-6 * lowrank.norm(a, b)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_wide(dtype: torch.dtype, expected: torch.dtype):
    assert lowrank.wide(dtype) == expected


def test_inputs_stay_as_they_are():
    a, b = _factors(3, 9, 5)
    kept = a.clone(), b.clone()
    lowrank.truncate(a, b, 2)
    lowrank.stack([(-2.0, a, b)])
    lowrank.difference_norm((a, b), [(1.0, a, b)])
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
