"""Rank indices that are drawn for each client of a round, in place of the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod
from polyrank.aggregation.method import Download
from polyrank.core.adapter import Adapter
from polyrank.core.seeds import numpy_generator
from polyrank.core.state import ServerState


class DrawnRows(RowMethod):
    """A method on rows whose clients have rank indices that are drawn for them."""

    def indices(self, server: ServerState, client: str, ranks: Mapping[str, int]) -> Mapping[str, Tensor]:
        """See `Method`; modules in which the client has as many of as many rank indices share one draw."""
        known = server.adapter.modules
        return {name: drawn(server, client, rank, known[name].rank) for name, rank in ranks.items()}

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:
        """What was drawn for the client, at the server's scale times what the client's is scaled up by."""
        known = server.adapter.modules
        own = self.indices(server, client, {name: min(rank, factors.rank) for name, factors in known.items()})
        modules = {
            name: replace(f.picked(own[name]), scale=f.scale * self.scaled_up(len(own[name]), f.rank))
            for name, f in known.items()
        }
        return Download(Adapter(modules, server.adapter.dense), server.base_change)


def drawn(server: ServerState, client: str, rank: int, of: int) -> Tensor:
    """So many of a module's rank indices, ascending, ``(rank,)`` in int64; from (seed, round, client) alone.

    Without replacement: every set of ``rank`` of them is as likely.
    """
    generator = numpy_generator(server.seed, "rank indices", server.round + 1, client)
    return torch.from_numpy(np.sort(generator.choice(of, size=rank, replace=False)))
