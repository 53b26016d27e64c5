"""Contributions as whole numbers: no sum overflows, errors stay within the bound, what is out of range is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyrank.aggregation.sums import Sums
from polyrank.core.errors import SecureError
from polyrank.secure.ring import Ring, length

SHAPES = {"modules/m/others/a": (3, 7), "modules/m/others/b": (5, 3), "dense/head/sum": (4,)}


def sums(value: float, weight: float, owners: int = 1) -> Sums:
    values = {name: torch.full(shape, value) for name, shape in SHAPES.items()}
    return Sums(
        values
        | {"modules/m/others/weight": torch.full((3,), weight, dtype=torch.float64)}
        | {"modules/m/others/owners": torch.full((3,), owners, dtype=torch.int64)}
    )


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("clients", [1, 2, 3, 10, 1000])
def test_the_largest_contributions_of_all_clients_do_not_overflow(bits: int, clients: int):
    """Every client sends ``-clip * weight`` or ``+clip * weight`` everywhere: the sum is clients times that."""
    ring = Ring(bits, clients, clip=2.5, weight=120.0)
    for sign in (-1, 1):
        one = sums(sign * 300.0, 120.0)
        total = np.zeros(length(one), ring.dtype)
        for _ in range(clients):
            total += ring.encode(one)
        found = ring.decode(total, one)
        for name, tensor in found.tensors.items():
            expected = one.tensors[name].double() * clients
            assert float((tensor.double() - expected).abs().max()) <= ring.error(name) + 1e-6 * clients * 300
            assert tensor.dtype == one.tensors[name].dtype
        assert torch.equal(found.tensors["modules/m/others/owners"], torch.full((3,), clients))
        assert torch.equal(found.tensors["modules/m/others/weight"], torch.full((3,), clients * 120.0).double())


def test_a_sum_is_off_by_half_a_step_for_each_client_at_most():
    """Steps are powers of two, of at most ``2 * clip * weight * clients / (0.999 * 2 ** 31)``."""
    ring, generator = Ring(32, 6, clip=16.0, weight=40.0), torch.Generator().manual_seed(0)
    name = "modules/m/others/a"
    assert ring.step(name) == 2.0 ** round(math.log2(ring.step(name)))
    assert 6 * 640 / 2**31 < ring.step(name) <= 2 * 6 * 640 / (0.999 * 2**31) * 1.001
    assert ring.error(name) == 3 * ring.step(name)
    parts = [Sums({name: 640 * (2 * torch.rand(999, generator=generator, dtype=torch.float64) - 1)}) for _ in range(6)]
    total = np.zeros(999, ring.dtype)
    for part in parts:
        total += ring.encode(part)
    off = ring.decode(total, parts[0]).tensors[name] - sum(part.tensors[name] for part in parts)
    assert ring.error(name) / 10 < float(off.abs().max()) <= ring.error(name)


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (sums(16.1 * 40, 40.0), "dense/head/sum holds a value beyond 640"),
        (sums(math.nan, 40.0), "dense/head/sum"),
        (sums(math.inf, 40.0), "dense/head/sum"),
        (sums(1.0, 41.0), "modules/m/others/weight holds a value beyond 40"),
        (sums(1.0, -1.0), "modules/m/others/weight"),
        (sums(1.0, 1.0, owners=2), "modules/m/others/owners"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name_and_nothing_is_sent(bad: Sums, name: str):
    with pytest.raises(SecureError, match=f"{name}.*nothing was sent"):
        Ring(32, 6, clip=16.0, weight=40.0).encode(bad)
