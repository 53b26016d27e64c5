"""A federation on shapes alone: no weights are read, and no value is ever computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polyrank import aggregation
from polyrank.aggregation import Download, Method, Parts
from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState
from polyrank.data import Partition
from polyrank.federation import traffic
from polyrank.federation.loading import skeleton
from polyrank.federation.planned import Planned, check_method, check_patience, planned, planned_outputs, planned_task
from polyrank.federation.population import first_ranks, initial
from polyrank.federation.round import cohort, parts_of, read_out
from polyrank.federation.server import Server
from polyrank.hf.resident import ResidentModel
from polyrank.ranks import scale_of
from polyrank.training.work import Moved


@dataclass(frozen=True, eq=False)
class Outlook:
    """A federation on shapes alone: no value is ever computed.

    Args:
        config: of the federation.
        method: how it is aggregated.
        clients: who takes part.
        resident: the base on the meta device.
    """

    config: Config
    method: Method
    clients: Planned
    resident: ResidentModel

    @cached_property
    def adapter(self) -> Adapter:
        """The global one."""
        return initial(self.resident, self.config)

    @cached_property
    def widest(self) -> Adapter:
        """One of the highest rank that all layers can have."""
        return self.resident.initial(min(min(shape) for shape in self.resident.shapes.values()), 1.0, 0)

    def parts(self, number: int) -> Parts:
        """What is trained and what travels in a round."""
        return parts_of(self.method, number, local_head=self.config.federation.head == "local")

    def state(self, number: int, ranks: Mapping[str, int], change: Adapter | None = None) -> ServerState:
        """The server before a round."""
        scales = {client: scale_of(rank, self.config.ranks) for client, rank in ranks.items()}
        return ServerState(number - 1, self.adapter, ranks, scales, base_change=change)

    def sent(self, number: int, rank: int, change: Adapter | None = None) -> Download:
        """What a client of this rank is sent in a round."""
        return read_out(self.state(number, {"client": rank}, change), "client", self.method)

    def moved(self, number: int, rank: int, sent: Download, *, most: bool = True) -> Moved:
        """Bytes of a round to and from a client of this rank that is sent this: the most, or the fewest."""
        parts = self.parts(number)
        back = traffic.sent_back(self.method, sent.adapter, rank, parts.sends, most=most)
        return Moved(traffic.down(parts, sent), traffic.up(parts, back))

    def trained(self, number: int, rank: int, *, most: bool = True) -> int:
        """Numbers that a client of this rank trains in a round: the most, or the fewest."""
        trains = self.parts(number).trains
        held = self.adapter if self.method.info.chooses_indices else self.adapter.prefix(rank)
        own = traffic.sent_back(self.method, held, rank, trains, most=most)
        return sum(tensor.numel() for tensor in own.parts(trains).values())

    def cohorts(self) -> list[tuple[str, ...]]:
        """Who takes part, round by round."""
        options, names = self.config.federation, list(self.clients.first)
        return [cohort(names, options.participation, options.seed, i + 1) for i in range(options.rounds)]


def outlook_of(server: Server) -> Outlook:
    """The outlook of a server that is loaded; neither data nor weights are read once more."""
    config, policy = server.config, server.policy
    partition = Partition(dict.fromkeys(server.clients, np.empty(0, np.int64)), server.population.groups)
    start = policy.start(server.clients, partition.groups, config.federation.seed)
    clients = Planned(policy, start, first_ranks(config, policy, partition))
    return Outlook(config, aggregation.configured(config.aggregation), clients, skeleton(config, server.site.outputs))


def outlook(config: Config) -> Outlook:
    """A configuration's federation without weights; of the data only what the configuration does not say.

    Raises:
        PolyRankError: something in the configuration, the model or the data does not fit, as a run would say.
    """
    config = planned_task(config)
    method = aggregation.configured(config.aggregation)
    clients = planned(config)
    check_method(config, method, clients.policy, clients.first)
    check_patience(config)
    return Outlook(config, method, clients, skeleton(config, planned_outputs(config)))
