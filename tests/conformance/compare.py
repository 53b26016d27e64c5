"""Equality of adapters: by their factors, or by what they do to the layers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from polyrank.adapter import Adapter
from tests.conformance.oracle import Plain, plain

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
