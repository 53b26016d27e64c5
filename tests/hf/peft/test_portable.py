from __future__ import annotations

import pytest
import torch

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.portable import RANKS, portable, portable_rank


def made(rank: int, scale: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 40, generator=generator), torch.randn(24, rank, generator=generator)
    return Factors(a.to(dtype), b.to(dtype), scale)


def gap(left: Factors, right: Factors) -> float:
    """Of the deltas in float64, relative."""
    one, other = (f.scale * (f.b.double() @ f.a.double()) for f in (left, right))
    return float((one - other).norm() / one.norm())


def test_the_rank_is_the_lowest_that_vllm_takes_and_that_holds_it():
    assert [portable_rank(r) for r in (0, 1, 2, 8, 9, 20, 64, 65, 257, 320, 321, 512)] == [
        *(1, 1, 8, 8, 16, 32, 64, 128, 320, 320, 512, 512)
    ]
    with pytest.raises(AdapterError, match=r"rank 513.* take 512 at most.*--rank 512.*--merged.*--exact-ranks"):
        portable_rank(513)


def test_ranks_of_one_scale_are_filled_up_with_zeros_and_nothing_changes():
    adapter = Adapter({"one": made(20, 2.0), "other": made(7, 2.0, 1)}, {"head": torch.ones(3)})
    given = portable(adapter)
    for name, factors in given.modules.items():
        before = adapter.modules[name]
        assert (factors.rank, factors.scale) == (32, 2.0)
        assert torch.equal(factors.a[: before.rank], before.a)
        assert torch.equal(factors.b[:, : before.rank], before.b)
        assert not factors.a[before.rank :].any()
        assert not factors.b[:, before.rank :].any()
        assert gap(before, factors) == 0.0
    assert given.dense.keys() == {"head"}


@pytest.mark.parametrize(
    "scales", [(2.0, 2.0, 0.5), (0.3, 0.3, 1.7), (8 / 3**0.5, 8 / 20**0.5, 1e-3), (-1.0, 2.0, 2.0)]
)
def test_scales_become_one_whose_alpha_is_a_whole_number(scales: tuple[float, ...]):
    """Those of rank-stabilised LoRA, of merges, and of another sign: B takes up what is between."""
    adapter = Adapter({str(i): made(3 + i, scale, i) for i, scale in enumerate(scales)})
    given = portable(adapter)
    assert len({factors.scale for factors in given.modules.values()}) == 1
    for name, factors in given.modules.items():
        alpha = factors.scale * factors.rank
        assert alpha == pytest.approx(round(alpha), abs=1e-9)
        assert alpha >= 1
        assert gap(adapter.modules[name], factors) < 1e-7
    usual = max(set(scales), key=scales.count)
    if (usual * 8).is_integer():  # then the modules that have it stay as they are
        kept = [n for n, f in adapter.modules.items() if f.scale == usual]
        assert kept
        assert all(gap(adapter.modules[name], given.modules[name]) == 0.0 for name in kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_factors_stay_narrow_where_nothing_is_rounded(dtype: torch.dtype):
    adapter = Adapter({"usual": made(4, 2.0, 0, dtype), "half": made(4, 1.0, 1, dtype), "odd": made(4, 0.7, 2, dtype)})
    adapter = Adapter({**adapter.modules, "too": made(4, 2.0, 3, dtype)})
    given = portable(adapter)
    kinds = {name: {factors.a.dtype, factors.b.dtype} for name, factors in given.modules.items()}
    assert kinds == {"usual": {dtype}, "half": {dtype}, "too": {dtype}, "odd": {torch.float32}}
    assert all(gap(adapter.modules[name], factors) < 1e-7 for name, factors in given.modules.items())


def test_a_delta_of_zero_stays_one_under_any_scale():
    given = portable(Adapter({"none": made(2, 0.0), "some": made(2, 2.0), "more": made(2, 2.0, 1)}))
    assert not given.modules["none"].delta().any()


def test_every_rank_is_given_as_it_is():
    for rank in RANKS:
        adapter = Adapter({"one": made(rank, 2.0)})
        assert portable(adapter).identical(adapter)
