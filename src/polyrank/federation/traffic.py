"""What travels in a round, in bytes: one way to count it, for rounds that were run and for rounds that are planned."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from polyrank.aggregation import Download, Method, Parts
from polyrank.core.adapter import Adapter, Factors, Part
from polyrank.core.state import ServerState
from polyrank.federation.round import nbytes
from polyrank.training.work import Moved


def down(parts: Parts, sent: Download) -> int:
    """Bytes to a client that was sent this, where clients keep what is theirs."""
    return nbytes(sent.adapter, parts.receives, sent.base_change)


def up(parts: Parts, trained: Adapter) -> int:
    """Bytes from a client that trained this."""
    return nbytes(trained, parts.sends)


def sent_back(method: Method, adapter: Adapter, rank: int, parts: frozenset[Part], *, most: bool) -> Adapter:
    """The rank indices that a client of this rank trains of what it was sent: all, unless it chooses them.

    Where it does, modules may differ in size, and only bounds are known.

    Args:
        method: of aggregation.
        adapter: what it was sent.
        rank: of the client.
        parts: that are counted.
        most: whether the choice is that of the most numbers, or of the fewest.
    """
    if not method.info.chooses_indices:
        return adapter
    sizes = {name: ("a" in parts) * f.d_in + ("b" in parts) * f.d_out for name, f in adapter.modules.items()}
    left, chosen = adapter.budget(rank), {}
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=most):
        kept = min(left, adapter.modules[name].rank)
        chosen[name], left = range(kept), left - kept
    return adapter.picked(chosen)


def scoring(parts: Parts, sent: Iterable[Download]) -> Moved:
    """Bytes of a scoring round: up comes all that is trained, since the server scores the whole model."""
    return sum((Moved(down(parts, one), nbytes(one.adapter, parts.trains)) for one in sent), Moved())


def travelled(moved: Iterable[Moved | None]) -> Moved | None:
    """What really travelled in all; None where nothing did."""
    real = [one for one in moved if one is not None]
    return sum(real, Moved()) if real else None


def sends_change(method: Method) -> bool:
    """Whether a client of a server that has a base change is sent one: asked of a server of one number."""
    one = Adapter({"module": Factors(torch.ones(1, 1), torch.ones(1, 1))})
    return method.read_out(ServerState(1, one, {}, {}, base_change=one), 1, "").base_change is not None
