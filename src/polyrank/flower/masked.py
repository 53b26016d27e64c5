"""A secure sum over Flower's nodes: the server's messages of its four steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from flwr.app import Message, RecordDict

from polyrank.aggregation import Download
from polyrank.core.errors import ConfigError, FlowerError
from polyrank.federation.contribution import Plan
from polyrank.federation.gathering import Told
from polyrank.federation.masked import Carried
from polyrank.flower.engine import FlowerEngine
from polyrank.flower.masked_messages import (
    CARDS,
    MASKED,
    SEALED,
    SHARES,
    Asks,
    Box,
    Contribute,
    Survivors,
    read_contributed,
    read_said,
    said,
    to_contribute,
)
from polyrank.flower.messages import Asked, bytes_of
from polyrank.flower.nodes import Member, collect
from polyrank.secure.ring import length
from polyrank.secure.values import Card, Roster, Shares
from polyrank.training.work import Moved, Outcome, Work

if TYPE_CHECKING:  # nodes import what imports this, and transformers takes seconds
    from polyrank.federation.server import Server

T = TypeVar("T")


class OnNodes:
    """A carrier of one attempt to the clients of Flower's nodes.

    Args:
        engine: that knows the nodes.
        server: whose round it is.
        works: of the cohort.
        told: of progress.
    """

    def __init__(self, engine: FlowerEngine, server: Server, works: Sequence[Work], told: Told) -> None:
        self.engine, self.server, self.works, self.told = engine, server, {work.client: work for work in works}, told
        self.outcomes: dict[str, Outcome] = {}
        self.failures: dict[str, str] = {}
        self.moved: dict[str, Moved] = {}
        self._token = ""
        engine.nodes.refresh()
        self._here = engine.nodes.here()

    def cards(self, token: str, clients: Sequence[str]) -> Mapping[str, Card]:
        """See `Carrier`."""
        self._token = token
        return self._answers(CARDS, {client: said(token, Asks(client)) for client in clients}, Card)

    def sealed(self, roster: Roster) -> Mapping[str, Mapping[str, str]]:
        """See `Carrier`."""
        found = self._answers(SEALED, dict.fromkeys(roster.cards, said(self._token, roster)), Box)
        return {client: box.sealed for client, box in found.items()}

    def masked(self, plan: Plan, inboxes: Mapping[str, Mapping[str, str]]) -> Mapping[str, np.ndarray]:
        """See `Carrier`."""
        engine, works = self.engine, self.works
        asked = {client: Asked(works[client], self._token, engine.config, engine.wire) for client in inboxes}
        self.moved = {client: Moved(down=bytes_of(one)) for client, one in asked.items()}
        count = length(plan.kernel(self.server.method, works[next(iter(inboxes))].adapter).empty())

        def read(client: str, reply: Message) -> np.ndarray:
            examples = self._here[client].examples
            found = read_contributed(
                reply.content, asked[client], examples, engine.metrics, count=count, kind=plan.ring.dtype
            )
            self.outcomes[client] = found[0]
            self.told(len(self.outcomes), len(inboxes))
            return found[1]

        contents = {c: to_contribute(one, Contribute(plan, inboxes[c])) for c, one in asked.items()}
        return self._ask(MASKED, contents, read)

    def shares(self, survivors: Sequence[str]) -> Mapping[str, Shares]:
        """See `Carrier`."""
        return self._answers(SHARES, dict.fromkeys(survivors, said(self._token, Survivors(tuple(survivors)))), Shares)

    def _answers(self, kind: str, contents: Mapping[str, RecordDict], answer: type[T]) -> dict[str, T]:
        return self._ask(kind, contents, lambda _, reply: read_said(answer, reply.content, self._token)[1])

    def _ask(self, kind: str, contents: Mapping[str, RecordDict], read: Callable[[str, Message], T]) -> dict[str, T]:
        def requests(clients: Sequence[str]) -> dict[str, Message | FlowerError]:
            return {client: self._request(kind, contents[client], self._here.get(client)) for client in clients}

        found, failures = collect(
            self.engine.nodes.grid, list(contents), requests, read, seconds=self.engine.timeout, least=0, repeats=0
        )
        self.failures |= failures
        return found

    def _request(self, kind: str, content: RecordDict, member: Member | None) -> Message | FlowerError:
        if member is None:
            return FlowerError("its node is not connected")
        return Message(content, member.node, kind, ttl=self.engine.timeout)


def carried(engine: FlowerEngine) -> Carried:
    """What makes the carrier of each attempt."""

    def made(server: Server, works: Sequence[Work], sent: Mapping[str, Download], told: Told) -> OnNodes:  # noqa: ARG001  # the works have them
        return OnNodes(engine, server, works, told)

    return made


def check_apart(members: Mapping[str, Member]) -> None:
    """Refuse nodes that serve several clients: they would see each other's secrets, and forget each other's.

    Raises:
        ConfigError: one does.
    """
    nodes = [member.node for member in members.values()]
    if twice := next((node for node in nodes if nodes.count(node) > 1), None):
        raise ConfigError(
            f"secure.enabled: node {twice} serves {nodes.count(twice)} clients, and each needs a node of its own; give "
            "the federation as many nodes as clients"
        )
