from __future__ import annotations

import torch

from polyrank.aggregation.kernels import dense
from polyrank.aggregation.sums import Sums
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate


def _heads(*values: float, dtype: torch.dtype = torch.float32) -> Adapter:
    return Adapter({}, {name: torch.full((2,), v, dtype=dtype) for name, v in zip("ab", values, strict=False)})


def test_dense_tensors_are_averaged_over_who_sent_them():
    """a: (1 * 2 + 3 * 6) / 4 = 5. b: only the second sent it: 8. Nobody: the previous values."""
    previous = _heads(-1.0, -2.0)
    sums = Sums(dense.empty(previous))
    dense.add(sums, ClientUpdate("ann", _heads(2.0), 9.0), 1.0)
    dense.add(sums, ClientUpdate("bob", _heads(6.0, 8.0), 9.0), 3.0)
    found = dense.means(sums, previous)
    assert found["a"].tolist() == [5.0, 5.0]
    assert found["b"].tolist() == [8.0, 8.0]
    assert dense.means(Sums(dense.empty(previous)), previous)["b"].tolist() == [-2.0, -2.0]


def test_dense_sums_are_added():
    """The same clients in two halves, one of them empty of b."""
    previous = _heads(-1.0, -2.0)
    left, right = Sums(dense.empty(previous)), Sums(dense.empty(previous))
    dense.add(left, ClientUpdate("ann", _heads(2.0), 9.0), 1.0)
    dense.add(right, ClientUpdate("bob", _heads(6.0, 8.0), 9.0), 3.0)
    found = dense.means(left + right, previous)
    assert {name: t.tolist() for name, t in found.items()} == {
        "a": [5.0, 5.0],
        "b": [8.0, 8.0],
    }


def test_dense_sums_are_wide_and_the_mean_has_the_previous_dtype():
    """60000 twice is above float16's 65504; the mean is not."""
    previous = _heads(0.0, dtype=torch.float16)
    sums = Sums(dense.empty(previous))
    for name in ("ann", "bob"):
        dense.add(sums, ClientUpdate(name, _heads(60000.0, dtype=torch.float16), 1.0), 1.0)
    found = dense.means(sums, previous)["a"]
    assert found.dtype == torch.float16
    assert found.tolist() == [60000.0, 60000.0]
