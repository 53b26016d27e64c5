from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError


def _factors(rank: int = 2, d_in: int = 3, d_out: int = 4, scale: float = 1.0, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator), scale)


def _adapter() -> Adapter:
    """Rank 2 on 4 x 3 at scale 2, rank 5 on 6 x 7 at scale 0.5, a head of 2 x 3 and its bias."""
    modules = {"q": _factors(2, 3, 4, 2.0), "v": _factors(5, 7, 6, 0.5, seed=1)}
    return Adapter(modules, {"head": torch.ones(2, 3), "bias": torch.zeros(2)})


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (4, 3)), ((2, 3), (2, 4)), ((3,), (4, 3)), ((2, 3), (4,)), ((1, 2, 3), (4, 2))],
    ids=["ranks", "b transposed", "a flat", "b flat", "a deep"],
)
def test_factors_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...]):
    with pytest.raises(AdapterError) as error:
        Factors(torch.ones(a), torch.ones(b))
    assert str(a) in str(error.value)
    assert str(b) in str(error.value)
    assert "a (rank, d_in) and b (d_out, rank)" in str(error.value)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_not_finite(scale: float):
    with pytest.raises(AdapterError, match=f"scale of factors is {scale}"):
        Factors(torch.ones(2, 3), torch.ones(4, 2), scale)


def test_sizes_of_factors():
    factors = _factors(2, 3, 4)
    assert (factors.rank, factors.d_in, factors.d_out) == (2, 3, 4)


def test_delta_by_hand():
    """2 * [[1], [3]] [[5, 0, 7]] = [[10, 0, 14], [30, 0, 42]]."""
    factors = Factors(torch.tensor([[5.0, 0.0, 7.0]]), torch.tensor([[1.0], [3.0]]), 2.0)
    assert factors.delta().tolist() == [[10.0, 0.0, 14.0], [30.0, 0.0, 42.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_delta_and_norm_are_wide(dtype: torch.dtype):
    """1 * 1 + 2^-5 * 2^-5 = 1 + 2^-10 does not fit bfloat16; scale 3 of it has the norm 3 + 3 * 2^-10."""
    row = torch.tensor([[1.0], [2.0**-5]], dtype=dtype)
    factors = Factors(row, row.T, -3.0)
    assert factors.delta().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert factors.delta().item() == -3 - 3 * 2**-10
    assert factors.norm() == pytest.approx(3 + 3 * 2**-10, rel=1e-12)


def test_norm_is_that_of_delta():
    for factors in _adapter().modules.values():
        assert factors.norm() == pytest.approx(float(torch.linalg.norm(factors.delta())), rel=1e-6)


def test_prefix_is_a_view_of_the_first_rank_indices():
    factors = _factors(3)
    first = factors.prefix(2)
    assert torch.equal(first.a, factors.a[:2])
    assert torch.equal(first.b, factors.b[:, :2])
    assert first.a.data_ptr() == factors.a.data_ptr()
    assert first.b.data_ptr() == factors.b.data_ptr()
    assert first.scale == factors.scale
    assert factors.prefix(9).rank == 3


@pytest.mark.parametrize("scale", [4.0, 0.25, -1.0])
def test_rescaled_keeps_delta_and_a(scale: float):
    factors = _factors(scale=2.0)
    other = factors.rescaled(scale)
    assert other.scale == scale
    assert other.a is factors.a
    torch.testing.assert_close(other.delta(), factors.delta())


def test_rescaled_to_the_same_scale_is_the_same_object():
    factors = _factors(scale=2.0)
    assert factors.rescaled(2.0) is factors


def test_rescaled_to_zero_would_lose_the_update():
    with pytest.raises(AdapterError, match="scale 0"):
        _factors(scale=2.0).rescaled(0.0)
    silent = _factors(scale=0.0)
    assert silent.rescaled(0.0) is silent
    assert not silent.rescaled(2.0).delta().any()


def test_map_reaches_every_tensor_and_keeps_scales():
    half = _adapter().map(lambda t: t.to(torch.bfloat16))
    assert {tensor.dtype for _, tensor in half.tensors()} == {torch.bfloat16}
    assert {name: f.scale for name, f in half.modules.items()} == {"q": 2.0, "v": 0.5}


def test_counts_by_hand():
    """q: 2 * (3 + 4) = 14 numbers, v: 5 * (7 + 6) = 65; the head adds 6 + 2 to the bytes, 4 each, 2 in bfloat16."""
    adapter = _adapter()
    assert adapter.rank == 5
    assert adapter.parameters == 14 + 65
    assert adapter.nbytes == 4 * (14 + 65 + 8)
    assert adapter.map(lambda t: t.to(torch.bfloat16)).nbytes == 2 * (14 + 65 + 8)
    assert Adapter({}).rank == 0


def test_the_seed_papers_sizes():
    """DistilBERT, three 768 x 768 projections in six layers: 27,648 a rank, so 552,960 at rank 20, 2.11 MiB."""
    modules = {f"{k}": Factors(torch.empty(20, 768), torch.empty(768, 20)) for k in range(18)}
    adapter = Adapter(modules)
    assert adapter.prefix(1).parameters == 27_648
    assert adapter.parameters == 552_960
    assert round(adapter.nbytes / 2**20, 2) == 2.11


def test_tensors_names():
    assert [name for name, _ in _adapter().tensors()] == ["q.a", "q.b", "v.a", "v.b", "head", "bias"]


def test_prefix_of_an_adapter_leaves_dense_tensors_whole():
    adapter = _adapter()
    first = adapter.prefix(3)
    assert {name: f.rank for name, f in first.modules.items()} == {"q": 2, "v": 3}
    assert first.dense is adapter.dense


def test_truncated_is_the_best_approximation_and_keeps_the_scale():
    """Its error is the scale times the norm of the dropped singular values, from numpy's SVD of the full product."""
    adapter = _adapter()
    cut = adapter.truncated(3)
    factors = adapter.modules["v"]
    s = np.linalg.svd(factors.b.double().numpy() @ factors.a.double().numpy(), compute_uv=False)
    gap = float(torch.linalg.norm(cut.modules["v"].delta() - factors.delta()))
    assert gap == pytest.approx(0.5 * math.hypot(*s[3:5]), rel=1e-4)
    assert {name: f.rank for name, f in cut.modules.items()} == {"q": 3, "v": 3}
    assert {name: f.scale for name, f in cut.modules.items()} == {"q": 2.0, "v": 0.5}
    torch.testing.assert_close(cut.modules["q"].delta(), adapter.modules["q"].delta())
    assert not cut.modules["q"].a[2].any()


def test_truncated_keeps_the_dtype():
    half = _adapter().map(lambda t: t.to(torch.bfloat16)).truncated(2)
    assert {tensor.dtype for _, tensor in half.tensors()} == {torch.bfloat16}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["q.a", "v.b", "bias"])
def test_first_not_finite_names_the_tensor(name: str, bad: float):
    adapter = _adapter().map(torch.clone)
    assert adapter.first_not_finite() is None
    dict(adapter.tensors())[name].view(-1)[-1] = bad
    assert adapter.first_not_finite() == name


def _nudged(tensor: Tensor) -> Tensor:
    out = tensor.clone()
    out.view(-1)[0] = torch.nextafter(out.view(-1)[0], torch.tensor(math.inf))
    return out


def _with_q(change: Callable[[Factors], Factors]) -> Adapter:
    adapter = _adapter()
    return replace(adapter, modules={**adapter.modules, "q": change(adapter.modules["q"])})


def test_identical():
    assert _adapter().identical(_adapter().map(torch.clone))


@pytest.mark.parametrize(
    "other",
    [
        _with_q(lambda f: replace(f, a=_nudged(f.a))),
        _with_q(lambda f: replace(f, b=_nudged(f.b))),
        _with_q(lambda f: replace(f, scale=2.5)),
        _with_q(lambda f: f.map(lambda t: t.double())),
        _with_q(lambda f: f.prefix(1)),
        replace(_adapter(), dense={"head": torch.ones(2, 3)}),
        replace(_adapter(), dense={"head": torch.ones(2, 3), "bias": torch.full((2,), 1e-30)}),
        replace(_adapter(), modules={"q": _adapter().modules["q"]}),
        Adapter({}),
    ],
    ids=["a bit of a", "a bit of b", "scale", "dtype", "rank", "dense name", "dense value", "module", "empty"],
)
def test_not_identical(other: Adapter):
    assert not _adapter().identical(other)
    assert not other.identical(_adapter())
