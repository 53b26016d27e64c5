"""A method over a narrow wire: the server holds what is frozen in a round as the clients were sent it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from polyrank.aggregation.method import Download, Kernel, Levels, Method, MethodInfo, Needs, Parts
from polyrank.core.adapter import PARTS
from polyrank.core.state import ServerState


@dataclass(frozen=True)
class AsSent(Method):
    """Another method, whose factors travel in a dtype of 16 bits.

    ffa, rolora and fedsvd are exact because all multiply by the same frozen factor. Clients multiply by the one that
    came, so the server must too: it rounds it before the round, to read it out and to add up beside it. What is trained
    is rounded on its way and nowhere else. A frozen B is sent at the server's scale, whatever the client's
    (`polyrank.federation.round.read_out`), since at another one it would be rounded to other values.

    Args:
        inner: the method.
        dtype: of the wire.
    """

    inner: Method
    dtype: torch.dtype

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """The inner method's."""
        return self.inner.info

    @property
    def hides_who_came(self) -> bool:
        return self.inner.hides_who_came

    def start(self, server: ServerState, levels: Levels) -> Kernel[Any]:  # Any: the sums' kind is the kernel's own
        return self.inner.start(self._rounded(server), levels)

    def parts(self, round_number: int) -> Parts:
        return self.inner.parts(round_number)

    def read_out(self, server: ServerState, rank: int) -> Download:
        return self.inner.read_out(self._rounded(server), rank)

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:
        return self.inner.change_rank(before, clients, top)

    def needs(self, count: int) -> Needs:
        return self.inner.needs(count)

    def _rounded(self, server: ServerState) -> ServerState:
        frozen = PARTS - self.inner.parts(server.round + 1).trains
        tensors = {name: t.to(self.dtype).to(t.dtype) for name, t in server.adapter.parts(frozen).items()}
        return replace(server, adapter=server.adapter.replaced(tensors)) if tensors else server
