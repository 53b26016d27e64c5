"""Central privacy: the server clips what each client changes, and adds noise to the sum.

With ``x_k`` what client k contributes to the method's sums, all factors and the head at the global scale, and ``s_k``
what it would have contributed had it changed nothing::

    sum = sum_k w_k min(1, C / |x_k - s_k|) (x_k - s_k) + N(0, (z C)^2)      0 <= w_k <= 1

so one client more or less changes the sum by at most C in the Euclidean norm, whatever it learned and whatever its
rank. What is divided by is no sum over those who came, but what is expected of those who are in the federation: the
share of the clients in a round, times how many own a row. The method then concludes as ever. The noise on a row does
not depend on how many own it, so the mean of a row of few owners has more. Source: McMahan et al. 2018, with the
fixed denominator of its section 2.2; the rows of different owners are ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from polyrank.aggregation.around import Around
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method, MethodInfo
from polyrank.aggregation.sums import Partial, Sums
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.privacy.noise import add_gaussian, generator

CLIP = "privacy/clip"
"""In the server's memory: the bound, where it follows a quantile."""
WITHIN = "privacy/within"
"""In the sums: of each client 1/2 if its change is within the bound, else -1/2."""
RATE = 0.2
"""How fast the bound moves (Andrew et al. 2021, section 3)."""
COUNT_SHARE = 0.05
"""Standard deviation of the noise on the count, as a share of the expected cohort (there, section 2.3)."""


@dataclass(frozen=True)
class Central(Around):
    """A method that adds up, under central privacy.

    Args:
        method: what is done with the sum.
        clip: the bound C, where it starts.
        noise: z, in all; of an adaptive bound a part of it goes to the count.
        share: the probability with which a client takes part in a round.
        most_examples: a client of so many examples weighs 1, of fewer less; None for 1 each.
        quantile: that the bound follows (Andrew et al. 2021); None for a bound that stays.
        head: whether heads are averaged.
        secret: that the noise is drawn from.
    """

    method: Method
    clip: float
    noise: float
    share: float
    most_examples: int | None = None
    quantile: float | None = None
    head: bool = True
    secret: str = field(default="", repr=False, compare=False)

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """Those of the method; with noise nothing is exact, and a merge has no clients to hide."""
        return replace(self.method.info, exact="no", merges=False)

    @property
    def hides_who_came(self) -> bool:
        """A round is concluded whoever came: that nobody did would be known otherwise."""
        return True

    def options(self) -> Mapping[str, Any]:
        """All but the secret."""
        return {name: value for name, value in super().options().items() if name != "secret"}

    def start(self, server: ServerState, levels: Levels) -> CentralKernel:  # noqa: ARG002  # who was asked is a secret
        return CentralKernel(server, self)


class CentralKernel(Kernel[Sums]):
    """What clients change, clipped and added up; the noise is added when the sum is concluded.

    Shapes follow from the ranks of all clients of the federation, asked or not.

    Args:
        server: the state before the round.
        method: what is asked for.
    """

    def __init__(self, server: ServerState, method: Central) -> None:
        self._server, self._method = server, method
        self._ranks = Counter(server.ranks.values())
        modules = server.adapter.modules
        levels = {name: tuple(sorted({min(r, f.rank) for r in self._ranks})) for name, f in modules.items()}
        self._inner: Kernel[Sums] = method.method.start(server, levels)
        self._starts: dict[int, Adapter] = {}
        self._unchanged: dict[int, Sums] = {}

    @cached_property
    def clip(self) -> float:
        """The bound of this round."""
        kept = self._server.memory.get(CLIP)
        return self._method.clip if kept is None else float(kept)

    def empty(self) -> Sums:
        sums = self._inner.empty()
        if self._method.quantile is not None:
            sums.tensors[WITHIN] = torch.zeros(1, dtype=torch.float64)
        return sums

    def check(self, update: ClientUpdate) -> None:
        """Refuse an update that the sums have no place for, or that is not of what the client was sent.

        Raises:
            AdapterError: as `Kernel.check`, the client is not of this federation, or its tensors have other names or
                shapes than it was sent.
        """
        if update.client not in self._server.ranks:
            raise AdapterError(f"client {update.client} has no rank in this federation; expected one of its clients")
        self._inner.check(update)
        sent, came = (
            {name: tuple(tensor.shape) for name, tensor in adapter.tensors()}
            for adapter in (self._start(self._server.ranks[update.client]), update.adapter)
        )
        if sent != came:
            wrong = min(name for name in sent.keys() | came.keys() if sent.get(name) != came.get(name))
            raise AdapterError(
                f"client {update.client} sent {wrong} as {came.get(wrong, 'nothing')}; expected "
                f"{sent.get(wrong, 'nothing')}, for its change is measured from what it was sent"
            )

    def fold(self, sums: Sums, update: ClientUpdate) -> Sums:
        sums += self.contribution(update)
        return sums

    def contribution(self, update: ClientUpdate) -> Sums:
        """What the client changed, within the bound; weights and numbers of owners are zero.

        Raises:
            AdapterError: as `check`.
        """
        self.check(update)
        whole = self._method.most_examples
        weight = update.weight if whole is None else min(update.weight / whole, 1.0)
        change = self._inner.contribution(replace(update, weight=1.0))
        start = self._unmoved(self._server.ranks[update.client])
        squared = 0.0
        for name, tensor in values(change).items():
            squared += float(torch.linalg.vector_norm(tensor.sub_(start.tensors[name]), dtype=torch.float64)) ** 2
        norm = math.sqrt(squared)
        within = norm <= self.clip
        for name, tensor in change.tensors.items():
            if name in values(change):
                tensor.mul_(weight if within else weight * self.clip / norm)
            else:
                tensor.zero_()
        if self._method.quantile is not None:
            change.tensors[WITHIN] = torch.full((1,), 0.5 if within else -0.5, dtype=torch.float64)
        return change

    def received(self, partial: Partial) -> Sums:
        return self.empty().like(partial)

    def conclude(self, sums: Sums) -> Aggregate:
        """What the method makes of the noised changes and of the clients that it expects."""
        method, number = self._method, self._server.round + 1
        expected = method.share * sum(self._ranks.values())
        deviation, on_count = split_noise(method.noise, expected, adaptive=method.quantile is not None)
        within = sums.tensors.pop(WITHIN, None)
        for name, tensor in values(sums).items():
            add_gaussian(tensor, deviation * self.clip, generator(method.secret, "noise", number, name))
        for rank, clients in self._ranks.items():
            for name, tensor in self._unmoved(rank).tensors.items():
                # how many there are is no secret, and a row that fewer own than a method asks for stays as it is
                count = clients if name.endswith("owners") else clients * method.share
                sums.tensors[name].add_(tensor, alpha=count)
        found = self._inner.conclude(sums)
        told, memory = {"clip": self.clip}, dict(found.memory)
        if within is not None:
            assert method.quantile is not None
            add_gaussian(within, on_count, generator(method.secret, "noise", number, WITHIN))
            share = float(within) / expected + 0.5
            moved = self.clip * math.exp(-RATE * (min(max(share, 0.0), 1.0) - method.quantile))
            memory[CLIP] = torch.tensor([moved], dtype=torch.float64)
        return replace(found, metrics={**found.metrics, **told}, memory=memory)

    def _start(self, rank: int) -> Adapter:
        """What a client of this rank is sent, at the server's scale."""
        if rank not in self._starts:
            own = self._method.method.read_out(self._server, rank, "").adapter
            travels = self._method.head and "head" in self._method.parts(self._server.round + 1).sends
            self._starts[rank] = Adapter(own.modules, self._server.adapter.dense if travels else {})
        return self._starts[rank]

    def _unmoved(self, rank: int) -> Sums:
        """What a client of this rank contributes that changes nothing, at weight 1."""
        if rank not in self._unchanged:
            self._unchanged[rank] = self._inner.contribution(ClientUpdate("", self._start(rank), 1.0))
        return self._unchanged[rank]


def values(sums: Sums) -> dict[str, Tensor]:
    """The tensors that are sums of values, and neither weights nor numbers of clients; see `Sums`."""
    return {name: t for name, t in sums.tensors.items() if not name.endswith(("weight", "owners", WITHIN))}


def split_noise(noise: float, expected: float, *, adaptive: bool) -> tuple[float, float]:
    """Multiplier on the sum, and standard deviation on the count, which together cost what ``noise`` alone does.

    ``z_sum = (z^-2 - (2 s)^-2)^(-1/2)`` (Andrew et al. 2021, theorem 1), with ``s`` a twentieth of the cohort as there,
    but at least ``z``, so that small cohorts have a solution (ours).
    """
    if not adaptive:
        return noise, 0.0
    on_count = max(COUNT_SHARE * expected, noise)
    return (noise**-2 - (2 * on_count) ** -2) ** -0.5, on_count
