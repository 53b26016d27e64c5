"""What a round takes in and gives out: plain frozen data that can be saved, compared and sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from polyrank.core.adapter import Adapter


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """What one client sends back after its local training.

    Args:
        client: the client's name.
        adapter: its trained adapter, of its own rank.
        weight: aggregation weight ``w_k >= 0``, by default its number of examples.
        metrics: what the client measured, e.g. ``{"loss": 0.7, "steps": 4}``.
        excess: how far the loss of its model on the server's validation set is above the best one of the round, in
            nats, 0 or more; infinite where that loss is not finite. None where the server has measured nothing; no
            client says it of itself.
        indices: module -> the rank indices of its rows, ascending, where the client chose them; else None.
    """

    client: str
    adapter: Adapter
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    excess: float | None = None
    indices: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True, eq=False)
class ServerState:
    """All that a federation needs to go on.

    Args:
        round: rounds finished so far; 0 before the first.
        adapter: the global adapter. Its rank R comes from the configuration, never from who happened to take part.
        ranks: client name -> rank.
        scales: client name -> the scale under which it trains.
        personal: client name -> tensors that stay with it (a local head), by the names of `Adapter.tensors`.
        base_change: low-rank update of the base that the server keeps beside the adapter, never merged into the base's
            weights. The global model is base + base_change + adapter, whatever the method; what of it a client is
            sent is the method's `read_out`. None until a method makes one.
        seed: of all that a method draws (fresh adapters).
        memory: what a method, or what is around it, carries from one round to the next, by name.
    """

    round: int
    adapter: Adapter
    ranks: Mapping[str, int]
    scales: Mapping[str, float]
    personal: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    base_change: Adapter | None = None
    seed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
