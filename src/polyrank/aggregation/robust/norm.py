"""Norm bounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from polyrank.aggregation.robust.median import coordinate_median
from polyrank.aggregation.robust.rule import Judged, Rule
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True)
class Norm(Rule):
    """A client's change of all that it sent, shortened to a bound where it is longer.

    ``x_k <- start_k + (x_k - start_k) min(1, c / |x_k - start_k|)``, over A, B at the global scale, and the head
    together. It keeps a client from shouting and not from lying: rows that hostile clients own alone are theirs, one
    bound a round. The norm is that of the factors, which is not gauge invariant, and a client of a high rank has more
    of them. Source: Sun et al. 2019 (arXiv 1911.07963); that the bound follows the round's median is ours.

    Args:
        bound: ``c``; by default ``times`` the median of the round's norms.
        times: see there.
    """

    bound: float | None = None
    times: float = 1.0

    name: ClassVar[str] = "norm"

    def __post_init__(self) -> None:
        for name, value in (("bound", self.bound), ("times", self.times)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"robust rule {self.name}: {name} is {value}; expected a number above 0")

    def judge(self, updates: Sequence[ClientUpdate], before: Adapter) -> Judged:
        norms = [change_norm(update.adapter, before) for update in updates]
        median = float(coordinate_median(torch.tensor(norms, dtype=torch.float64)))
        most = self.times * median if self.bound is None else self.bound
        made = [
            update if norm <= most else replace(update, adapter=_shortened(update.adapter, before, most / norm))
            for update, norm in zip(updates, norms, strict=True)
        ]
        return Judged(made, metrics={"clients_bounded": float(sum(norm > most for norm in norms))})


def change_norm(adapter: Adapter, before: Adapter) -> float:
    """``|x_k - start_k|`` over all of an adapter's tensors, factors at the scales of ``before``."""
    started = _start(adapter, before)
    return math.hypot(*(float((tensor - started[name]).norm()) for name, tensor in adapter.tensors()))


def _shortened(adapter: Adapter, before: Adapter, share: float) -> Adapter:
    started = _start(adapter, before)

    def shorter(name: str, tensor: Tensor) -> Tensor:
        return started[name] + share * (tensor - started[name])

    modules = {
        name: Factors(shorter(f"{name}.a", own.a), shorter(f"{name}.b", own.b), own.scale)
        for name, own in adapter.modules.items()
    }
    return Adapter(modules, {name: shorter(name, tensor) for name, tensor in adapter.dense.items()})


def _start(adapter: Adapter, before: Adapter) -> dict[str, Tensor]:
    """What the client began with, by the names of `Adapter.tensors`."""
    modules = {name: before.modules[name].prefix(own.rank) for name, own in adapter.modules.items()}
    start = Adapter(modules, {name: before.dense[name] for name in adapter.dense})
    return {name: tensor.double() for name, tensor in start.tensors()}
