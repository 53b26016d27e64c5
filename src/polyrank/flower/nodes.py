"""Which node is which client: asked once, kept by node; and what is sent to nodes until enough have answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyrank.errors import FlowerError

T = TypeVar("T")

log = logging.getLogger(__name__)

SHORTEST, LONGEST, SHARE = 0.02, 2.0, 0.05
"""Seconds between looks for replies: a share of what was waited so far, so that a late look costs no more than that."""


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
        shapes: of the modules with LoRA, ``(d_out, d_in)``.
    """

    node: int
    client: str
    rank: int | None
    examples: int = 0
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Nodes:
    """The nodes of a grid and the clients on them.

    Args:
        grid: Flower's.
        question: what a new node is asked: the message's type and content. None: nothing, and its number is its name.
        read: who it is, from its answer; raises `FlowerError` if it is nobody.
        timeout: seconds for an answer.
    """

    grid: Grid
    question: tuple[str, RecordDict] | None
    read: Callable[[int, RecordDict], Member]
    timeout: float
    members: dict[int, Member] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def wait(self, least: int, seconds: float) -> None:
        """Until so many nodes are there and have said who they are; meanwhile it is logged how many there are.

        Raises:
            FlowerError: there are fewer when the time is over; it says why nodes that are there do not count.
        """
        end, before = time.monotonic() + seconds, -1
        while True:
            self.refresh()
            found = len(self.here())
            if found >= least:
                return
            if found != before:
                before = found
                log.warning("%d of %d nodes are here; waiting for the others up to %g s", before, least, seconds)
            if time.monotonic() > end:
                why = "; ".join(f"node {node}: {reason}" for node, reason in sorted(self.refused.items())[:5])
                raise FlowerError(
                    f"{found} nodes after {seconds:g} s, expected {least}; start more SuperNodes, or set "
                    f"min-nodes lower{f' (left out: {why})' if why else ''}"
                )
            time.sleep(LONGEST)

    def refresh(self) -> None:
        """Ask nodes that are new who they are; one that gives no good answer is left out and logged with its reason."""
        present = set(self.grid.get_node_ids())
        new = sorted(present - self.members.keys())
        if self.question is None:
            self.members |= {node: Member(node, str(node), None) for node in new}
            return
        taken = {member.client for node, member in self.members.items() if node in present}
        kind, content = self.question
        requests = {node: Message(content, node, kind, ttl=self.timeout) for node in new}
        for node, answer in exchange(self.grid, requests, self.timeout).items():
            try:
                if isinstance(answer, FlowerError):
                    raise answer
                member = self.read(node, answer.content)
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
    start = time.monotonic()
    while waiting and time.monotonic() < start + seconds:
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)  # the source of an error is not its node
            if node is not None:
                failed = message.has_error()
                answers[node] = FlowerError(message.error.reason or "no reason given") if failed else message
        if waiting:
            time.sleep(min(max(SHARE * (time.monotonic() - start), SHORTEST), LONGEST))
    answers |= {node: FlowerError(f"no reply within {seconds:g} s") for node in waiting.values()}
    return {node: answers[node] for node in requests}


def collect(
    grid: Grid,
    wanted: Sequence[str],
    requests: Callable[[Sequence[str]], Mapping[str, Message | FlowerError]],
    read: Callable[[str, Message], T],
    *,
    seconds: float,
    least: int,
    repeats: int,
) -> tuple[dict[str, T], dict[str, str]]:
    """Good replies by client, and why the other clients gave none.

    Args:
        grid: Flower's.
        wanted: clients, each on a node of its own.
        requests: messages for some of them, made anew for each attempt, or why there is none for a client.
        read: what a reply says; raises `FlowerError` if it is no good one.
        seconds: for the replies of one attempt.
        least: good replies that are enough; with fewer those who gave none are asked again.
        repeats: how often.

    Raises:
        FlowerError: fewer than the least number are good after all repeats.
    """
    found: dict[str, T] = {}
    failures: dict[str, str] = {}
    least = min(least, len(wanted))
    for _ in range(1 + repeats):
        asked = requests([client for client in wanted if client not in found])
        on: dict[int, str] = {}
        messages: dict[int, Message] = {}
        for client, request in asked.items():
            if isinstance(request, FlowerError):
                failures[client] = str(request)
            else:
                on[request.metadata.dst_node_id] = client
                messages[request.metadata.dst_node_id] = request
        for node, answer in exchange(grid, messages, seconds).items():
            try:
                if isinstance(answer, FlowerError):
                    raise answer
                found[on[node]] = read(on[node], answer)
            except FlowerError as error:
                failures[on[node]] = str(error)
                log.warning("%s (node %d) gave no good reply: %s", on[node], node, error)
        if len(found) >= least:
            break
        log.warning("%d of %d clients replied, expected %d", len(found), len(wanted), least)
    failures = {client: failures[client] for client in wanted if client not in found}
    if len(found) < least:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failures.items())[:5])
        raise FlowerError(f"{len(found)} good replies after {1 + repeats} attempts, expected {least} ({reasons})")
    return found, failures
