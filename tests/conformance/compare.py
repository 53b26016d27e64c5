"""Equality of adapters and of global models: by their factors, or by what they do to the layers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from polyrank.aggregation import Aggregate
from polyrank.core.adapter import Adapter
from tests.conformance.oracle import Model, Plain, model, plain

# An entry differs by the rounding of the result; sums are wider than bfloat16, so 2 ** -8 is that rounding alone.
_RELATIVE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1.01 * 2**-8}
_ABSOLUTE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5}
# A product collects the rounding of both factors; relative to its Frobenius norm.
_PRODUCT = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2**-6}


def same(
    found: Adapter | Plain,
    expected: Adapter | Plain,
    by: Literal["factors", "delta"] = "factors",
    dtype: torch.dtype = torch.float64,
) -> None:
    """Fail, naming the module, unless both have the same values up to the rounding of ``dtype``."""
    found = plain(found) if isinstance(found, Adapter) else found
    expected = plain(expected) if isinstance(expected, Adapter) else expected
    near = {"rtol": _RELATIVE[dtype], "atol": _ABSOLUTE[dtype]}
    assert found.a.keys() == expected.a.keys()
    assert found.dense.keys() == expected.dense.keys()
    for module in expected.a:
        if by == "factors":
            assert found.scale[module] == expected.scale[module]
            np.testing.assert_allclose(found.a[module], expected.a[module], err_msg=f"A of {module}", **near)
            np.testing.assert_allclose(found.b[module], expected.b[module], err_msg=f"B of {module}", **near)
        else:
            gap = np.linalg.norm(found.delta(module) - expected.delta(module))
            assert gap <= _PRODUCT[dtype] * np.linalg.norm(expected.delta(module)), f"delta of {module}: off by {gap}"
    for name in expected.dense:
        np.testing.assert_allclose(found.dense[name], expected.dense[name], err_msg=name, **near)


def same_model(
    found: Aggregate,
    expected: Aggregate | Model,
    by: Literal["factors", "delta"] = "factors",
    dtype: torch.dtype = torch.float64,
) -> None:
    """Fail, naming the module, unless adapters, base changes and, in float64, metrics agree.

    A base change is as wide as the sums, so where the adapter is bfloat16 it takes up the rounding of the adapter, and
    the global model is as near as in float32.
    """
    same(found.adapter, expected.adapter, by, dtype)
    mine, wanted = model(found), expected if isinstance(expected, Model) else model(expected)
    for module in wanted.base:
        size = np.linalg.norm(wanted.base[module]) + np.linalg.norm(wanted.adapter.delta(module))
        gap = np.linalg.norm(mine.base[module] - wanted.base[module])
        assert gap <= _PRODUCT[dtype] * size, f"base change of {module}: off by {gap}"
    if dtype == torch.float64:
        assert mine.metrics.keys() == wanted.metrics.keys()
        for name, value in wanted.metrics.items():
            np.testing.assert_allclose(mine.metrics[name], value, rtol=1e-8, atol=1e-12, err_msg=name)


def exactly_the_same_factors(found: Aggregate, expected: Aggregate) -> bool:
    """Those of the adapter and of the base change, bit for bit; dense tensors may differ by rounding."""
    pairs = [(found.adapter, expected.adapter), (found.base_change, expected.base_change)]
    return all(
        Adapter(one.modules).identical(Adapter(other.modules)) if one and other else one is other
        for one, other in pairs
    )
