"""Which node is which client: asked once, kept by node."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from polyrank.errors import FlowerError
from polyrank.flower.messages import FACTS

log = logging.getLogger(__name__)

PAUSES = (0.02, 0.1, 0.5, 2.0)
"""Seconds between looks for replies, ever longer."""


@dataclass(frozen=True)
class Member:
    """A client as its node describes it.

    Args:
        node: Flower's number of the node.
        client: its name in the federation.
        rank: that it declares, or None.
        examples: that it trains on.
        labels: how many of them have each label.
        names: of the labels.
    """

    node: int
    client: str
    rank: int | None
    examples: int
    labels: tuple[int, ...]
    names: tuple[str, ...]


@dataclass
class Nodes:
    """The nodes of a grid and the clients on them.

    Args:
        grid: Flower's.
        config: the federation's configuration, TOML, that a node needs to find its data.
        timeout: seconds for an answer.
    """

    grid: Grid
    config: str
    timeout: float
    members: dict[int, Member] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def wait(self, least: int, seconds: float) -> None:
        """Until so many nodes have said who they are.

        Raises:
            FlowerError: there are fewer when the time is over; it says why nodes that are there do not count.
        """
        end = time.monotonic() + seconds
        while True:
            self.refresh()
            if len(self.members) >= least:
                return
            if time.monotonic() > end:
                why = "; ".join(f"node {node}: {reason}" for node, reason in sorted(self.refused.items())[:5])
                raise FlowerError(
                    f"{len(self.members)} nodes after {seconds:g} s, expected {least}; start more SuperNodes, or set "
                    f"min-nodes lower{f' (left out: {why})' if why else ''}"
                )
            time.sleep(PAUSES[-1])

    def refresh(self) -> None:
        """Ask nodes that are new who they are; one that gives no good answer is left out and logged with its reason."""
        present = set(self.grid.get_node_ids())
        new = sorted(present - self.members.keys())
        taken = {member.client for node, member in self.members.items() if node in present}
        requests = {
            node: Message(RecordDict({FACTS: ConfigRecord({"config": self.config})}), node, "query", ttl=self.timeout)
            for node in new
        }
        for node, answer in exchange(self.grid, requests, self.timeout).items():
            try:
                member = _member(node, answer)
                if member.client in taken:
                    raise FlowerError(f"another node is {member.client!r} already")
                self.members[node] = member
                self.refused.pop(node, None)
                taken.add(member.client)
            except FlowerError as error:
                if self.refused.get(node) != str(error):  # they are asked again and again
                    log.warning("node %d is left out: %s", node, error)
                self.refused[node] = str(error)

    def here(self) -> Mapping[str, Member]:
        """Client -> the node that it is on now, of those that the grid has."""
        present = set(self.grid.get_node_ids())
        return {member.client: member for node, member in self.members.items() if node in present}


def exchange(grid: Grid, requests: Mapping[int, Message], seconds: float) -> dict[int, Message | FlowerError]:
    """One request per node, and what became of each within the time, in the order of the requests."""
    if not requests:
        return {}
    answers: dict[int, Message | FlowerError] = {}
    waiting = dict(zip(grid.push_messages(list(requests.values())), requests, strict=True))
    end, looks = time.monotonic() + seconds, 0
    while waiting and time.monotonic() < end:
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)  # the source of an error is not its node
            if node is not None:
                failed = message.has_error()
                answers[node] = FlowerError(message.error.reason or "no reason given") if failed else message
        if waiting:
            time.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
            looks += 1
    answers |= {node: FlowerError(f"no reply within {seconds:g} s") for node in waiting.values()}
    return {node: answers[node] for node in requests}


def _member(node: int, answer: Message | FlowerError) -> Member:
    if isinstance(answer, FlowerError):
        raise answer
    try:
        facts: dict[str, Any] = json.loads(str(answer.content.config_records[FACTS]["about"]))
        labels: tuple[int, ...] = tuple(facts["labels"])
        names: tuple[str, ...] = tuple(facts["names"])
        member = Member(node, facts["client"], facts["rank"], facts["examples"], labels, names)
    except (KeyError, ValueError, TypeError) as error:
        raise FlowerError(f"its answer cannot be read: {error!r}") from None
    whole = [member.examples, *member.labels, *([] if member.rank is None else [member.rank])]
    if not isinstance(member.client, str) or not all(type(n) is int and n >= 0 for n in whole):
        raise FlowerError(f"its answer makes no sense: {facts}")
    if len(labels) != len(names) or not all(isinstance(name, str) for name in names):
        raise FlowerError(f"{member.client} counts {len(labels)} labels and names {names}")
    if member.examples == 0 or sum(member.labels) != member.examples or member.rank == 0:
        raise FlowerError(f"{member.client} has {member.examples} examples, labels {member.labels}, rank {member.rank}")
    return member
