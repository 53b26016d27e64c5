"""A method whose change of a round is what a server optimiser steps along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from polyrank.aggregation.around import Around
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method, MethodInfo, S
from polyrank.aggregation.optimised.optimisers import OPTIMISERS, Optimiser
from polyrank.aggregation.sums import Partial
from polyrank.config import AggregationConfig
from polyrank.core.adapter import Part
from polyrank.core.errors import ConfigError
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate, ServerState

NO_OPTIMISER = "none"
"""The method's result is the next global adapter."""
MEMORY = "server/"
"""Before the names of moments in the server's memory: ``server/m/<tensor>``, ``server/v/<tensor>``."""


@dataclass(frozen=True)
class Optimised(Around):
    """A method whose result is the direction in which a server optimiser steps.

    Args:
        method: what makes the change of a round, privacy's noise included.
        optimiser: what makes a step of it.
        lr: the server's learning rate.

    Raises:
        ConfigError: what the method makes of a round is no change along the coordinates of the round before.
    """

    method: Method
    optimiser: Optimiser
    lr: float

    def __post_init__(self) -> None:
        info = self.method.info
        if info.refactors or info.changes_base:
            why = (
                "makes factors anew of each round's products, so that a value is no longer what it was a round before"
                if info.refactors
                else "puts what was learned into a base change, beside the adapter that would be stepped"
            )
            raise ConfigError(
                f"aggregation.server {self.optimiser.name}: aggregation.method {info.name} {why}; expected a method "
                "that averages rows, such as replication or owner_mean, or aggregation.server none"
            )

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """The method's; a step is no mean, and a merge has no rounds."""
        inner = self.method.info
        return replace(
            inner,
            averages=f"{inner.averages}, then a step of the server's {self.optimiser.name}",
            exact="no",
            merges=False,
        )

    def options(self) -> Mapping[str, Any]:
        """All of them, and which optimiser they are of."""
        return {**super().options(), "server": self.optimiser.name}

    def start(self, server: ServerState, levels: Levels) -> Kernel[Any]:  # Any: the sums' kind is the kernel's own
        sends = self.method.parts(server.round + 1).sends
        return _OptimisedKernel(self.method.start(server, levels), server, sends, self.optimiser, self.lr)


class _OptimisedKernel(Kernel[S]):
    def __init__(
        self, inner: Kernel[S], server: ServerState, sends: frozenset[Part], optimiser: Optimiser, lr: float
    ) -> None:
        self._inner, self._server, self._sends = inner, server, sends
        self._optimiser, self._lr = optimiser, lr

    def empty(self) -> S:
        return self._inner.empty()

    def check(self, update: ClientUpdate) -> None:
        self._inner.check(update)

    def fold(self, sums: S, update: ClientUpdate) -> S:
        return self._inner.fold(sums, update)

    def contribution(self, update: ClientUpdate) -> S:
        return self._inner.contribution(update)

    def received(self, partial: Partial) -> S:
        return self._inner.received(partial)

    def conclude(self, sums: S) -> Aggregate:
        """A step of every tensor that is averaged in this round; the moments are in the result's memory."""
        return self._whole(self._inner.conclude(sums))

    def _whole(self, found: Aggregate) -> Aggregate:
        """A result, and each of those that a server may take in its place, with moments of its own."""
        made: dict[str, Tensor] = {}
        memory = dict(found.memory)
        for part in sorted(self._sends):
            after = found.adapter.parts({part})
            for name, before in self._server.adapter.parts({part}).items():
                made[name], moments = self._stepped(name, part, before, after[name])
                memory |= moments
        candidates = tuple(self._whole(one) for one in found.candidates)
        return replace(found, adapter=found.adapter.replaced(made), memory=memory, candidates=candidates)

    def _stepped(self, name: str, part: Part, before: Tensor, after: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A tensor after the step, and its moments by their names in the memory; nothing new where nothing changed."""
        x = before.to(wide(before.dtype))
        change = after.to(x.dtype) - x
        moved = _moved(change, part)
        if not bool(moved.any()):
            return before, {}
        began = self._optimiser.begin(x)
        keys = {key: f"{MEMORY}{key}/{name}" for key in began}
        kept = {key: self._server.memory.get(keys[key], moment) for key, moment in began.items()}
        step, moments = self._optimiser.step(change, kept)
        stepped = torch.where(moved, x + self._lr * step, x).to(before.dtype)
        return stepped, {keys[key]: torch.where(moved, moments[key], kept[key]) for key in keys}


def _moved(change: Tensor, part: Part) -> Tensor:
    """Whether a row of A, a column of B or a dense tensor changed at all, to be broadcast over its values."""
    if part == "head":
        return change.any()
    return change.any(dim=1 if part == "a" else 0, keepdim=True)


def optimised(method: Method, config: AggregationConfig) -> Method:
    """The method under the server optimiser of a configuration; the method itself where there is none.

    Raises:
        ConfigError: as `Optimised`; an option is unknown or out of range; a learning rate is missing, or it or options
            are there without an optimiser.
    """
    name, lr = config.server, config.server_lr
    if name == NO_OPTIMISER:
        if lr is not None or config.server_options:
            raise ConfigError(
                f"aggregation.server is {name}, and server_lr or server_options is set; expected an optimiser, one of "
                f"{', '.join(OPTIMISERS)}, or neither; momentum with server_options = {{beta1 = 0}} is server_lr alone"
            )
        return method
    optimiser = OPTIMISERS.build(name, config.server_options)
    if lr is None and optimiser.adaptive:
        raise ConfigError(
            f"aggregation.server {name} needs aggregation.server_lr: a step is about as long in every value, however "
            "little was learned, so there is no value that fits all; expected a number above 0, such as 0.01"
        )
    return Optimised(method, optimiser, 1.0 if lr is None else lr)
