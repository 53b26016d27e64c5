"""A method over a narrow wire: the server holds what is frozen in a round as the clients were sent it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from polyrank.aggregation.around import Around
from polyrank.aggregation.method import Download, Kernel, Levels, Method
from polyrank.core.adapter import PARTS
from polyrank.core.state import ServerState


@dataclass(frozen=True)
class AsSent(Around):
    """Another method, whose factors travel in a dtype of 16 bits.

    ffa, rolora and fedsvd are exact because all multiply by the same frozen factor. Clients multiply by the one that
    came, so the server must too: it rounds it before the round, to read it out and to add up beside it. What is trained
    is rounded on its way and nowhere else. A frozen B is sent at the server's scale, whatever the client's
    (`polyrank.federation.round.read_out`), since at another one it would be rounded to other values.

    Args:
        method: the other one.
        dtype: of the wire.
    """

    method: Method
    dtype: torch.dtype

    def start(self, server: ServerState, levels: Levels) -> Kernel[Any]:  # Any: the sums' kind is the kernel's own
        return self.method.start(self._rounded(server), levels)

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:
        return self.method.read_out(self._rounded(server), rank, client)

    def _rounded(self, server: ServerState) -> ServerState:
        frozen = PARTS - self.method.parts(server.round + 1).trains
        tensors = {name: t.to(self.dtype).to(t.dtype) for name, t in server.adapter.parts(frozen).items()}
        return replace(server, adapter=server.adapter.replaced(tensors)) if tensors else server
