"""Which nodes take part: what a node says of itself, held against the federation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from polyrank.core.errors import FlowerError
from polyrank.federation.participant import OF_THE_BASE
from polyrank.flower.facts import About, Counts, Place, read_answer
from polyrank.flower.nodes import Member

if TYPE_CHECKING:  # nodes import this file too, for every message, and transformers takes seconds
    from polyrank.federation.server import Server

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Admission:
    """Reads a node's answer. One that does not fit is left out, and the federation goes on without it.

    Args:
        server: whose nodes they are to be.
        most_examples: that a client may have.
    """

    server: Server
    most_examples: int

    def __call__(self, node: int, records: RecordDict) -> Sequence[Member]:
        """The node's clients; none where it has a place beyond the last of them.

        Raises:
            FlowerError: it cannot be read, or does not fit.
        """
        said = read_answer(records, self.most_examples)
        self._check_rank(said.rank)
        names = self._names(said)
        own = said.client is not None and said.client not in self.server.population.sizes
        for client, counts in zip(names, said.clients, strict=True):
            self._check_labels(client, counts)
            if said.place is not None and not self._is_ours(client, counts):
                raise FlowerError(
                    f"{client} has other data than the server's part of that name; give both the same data, or the "
                    "node a name (client) and data-train of its own"
                )
        if names:
            self._check_shapes(names[0], said)
            self._compare_base(names[0], said)
        pairs = zip(names, said.clients, strict=True)
        return [
            Member(node, client, said.rank, counts.examples, counts.labels, counts.left_out, own)
            for client, counts in pairs
        ]

    def _names(self, said: About) -> Sequence[str]:
        """Its clients: as it calls its one, or those at its places."""
        if said.client is not None:
            return [said.client]
        assert said.place is not None  # one of the two, as was checked
        names = Place(said.place, said.step).of(self.server.clients)
        if len(names) != len(said.clients):
            raise FlowerError(
                f"it serves {len(said.clients)} clients, and {len(names)} of the federation's are its own"
            )
        return names

    def _check_labels(self, client: str, counts: Counts) -> None:
        found, expected = len(counts.labels), len(self.server.site.labels)
        if found != expected and (found or self.server.site.task.labelled):
            raise FlowerError(f"{client} counts {found} labels, the server has {expected}")

    def _is_ours(self, client: str, counts: Counts) -> bool:
        ours = self.server.population
        return (counts.examples, list(counts.labels)) == (ours.sizes[client], list(ours.labels[client]))

    def _check_rank(self, rank: int | None) -> None:
        from polyrank.federation.population import global_rank

        highest = global_rank(self.server.config)
        if rank is not None and rank > highest:
            raise FlowerError(
                f"it declares rank {rank}, and the global adapter has {highest}; add the rank to ranks.levels"
            )
        if rank is not None and rank != highest and self.server.method.info.equal_ranks:
            raise FlowerError(
                f"it declares rank {rank}, and {self.server.method.info.name} needs equal ranks, {highest} each"
            )

    def _check_shapes(self, client: str, said: About) -> None:
        if different := sorted(said.shapes.items() ^ self.server.site.resident.shapes.items()):
            name, shape = different[0]
            raise FlowerError(
                f"{client} and the server adapt different modules, such as {name[:100]} {shape}; give both the same "
                "model.name and model.targets"
            )

    def _compare_base(self, client: str, said: About) -> None:
        """Say where the base's files differ; a copy saved anew may be the same model, so people have to judge it."""
        ours = self.server.site.digests
        other = [name for name in OF_THE_BASE if name in said.base and said.base[name] != ours.get(name)]
        if other:
            log.warning(
                "%s has a base whose %s differ from the server's; unless it is the same model saved anew, what it "
                "learns does not fit the others: give both the same model.name",
                client[:200],
                " and ".join(other),
            )
