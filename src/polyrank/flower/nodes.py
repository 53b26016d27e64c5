"""Which node is which client: asked once, kept by node; and what is sent to nodes until enough have answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyrank.core.errors import FlowerError
from polyrank.core.text import one_line

T = TypeVar("T")
Key = TypeVar("Key")

log = logging.getLogger(__name__)

SHORTEST, LONGEST, SHARE = 0.02, 2.0, 0.05
"""Seconds between looks for replies: a share of what was waited so far, so that a late look costs no more than that."""
MORE = "flwr run . --stream --federation-config 'num-supernodes={}'"
"""How a simulation gets more nodes."""
LONGEST_REASON = 500
"""Characters of what a node says of its failure that are passed on."""


@dataclass(frozen=True)
class Member:
    """A client as its node describes it.

    Args:
        node: Flower's number of the node.
        client: its name in the federation.
        rank: that it declares, or None.
        examples: that it trains on.
        labels: how many of them have each label; nothing where the data have none.
        left_out: reason -> how many of its rows are no examples.
        own: whether the data are its own, and no part of the federation's.
    """

    node: int
    client: str
    rank: int | None
    examples: int = 0
    labels: tuple[int, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    own: bool = False


@dataclass
class Nodes:
    """The nodes of a grid and the clients on them.

    Args:
        grid: Flower's.
        question: what a new node is asked: the message's type and content. None: nothing, and its number is its name.
        read: its clients, from its answer; raises `FlowerError` if it cannot take part.
        timeout: seconds for an answer.
    """

    grid: Grid
    question: tuple[str, RecordDict] | None
    read: Callable[[int, RecordDict], Sequence[Member]]
    timeout: float
    members: dict[int, Sequence[Member]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def wait(self, least: int, seconds: float, clients: int = 0) -> None:
        """Until so many nodes are there and have said who they are; meanwhile it is logged how many there are.

        Args:
            least: nodes.
            seconds: to wait; a simulation, whose nodes are all there from the start, is not waited for.
            clients: that must be on them.

        Raises:
            FlowerError: there are fewer when the time is over; it says why nodes that are there do not count.
        """
        end, before = time.monotonic() + seconds, (-1, -1)
        while True:
            self.refresh()
            present = set(self.grid.get_node_ids())
            found = len(present & self.members.keys()), len(self.here())
            if found[0] >= least and found[1] >= clients:
                return
            have = f"{found[0]} nodes" + (f" with {found[1]} clients" if clients else "")
            wanted = f"{clients} clients" if clients else f"{least}"
            if _simulated(self.grid) and present and found == before:
                mend = f"start it with more: {MORE.format(max(least, clients))}" if not self.refused else "mend that"
                raise FlowerError(f"{have} in this simulation, expected {wanted}{self._left_out()}; {mend}")
            if time.monotonic() > end:
                more = "start more SuperNodes, or set min-nodes lower"
                raise FlowerError(f"{have} after {seconds:g} s, expected {wanted}; {more}{self._left_out()}")
            if found != before:
                before = found
                log.warning("%s are here, expected %s; waiting up to %g s", have, wanted, seconds)
            time.sleep(LONGEST)

    def _left_out(self) -> str:
        why = "; ".join(f"node {node}: {reason}" for node, reason in sorted(self.refused.items())[:5])
        return f" (left out: {why})" if why else ""

    def refresh(self) -> None:
        """Ask nodes that are new who they are; one that gives no good answer is left out and logged with its reason."""
        present = set(self.grid.get_node_ids())
        new = sorted(present - self.members.keys())
        if self.question is None:
            self.members |= {node: (Member(node, str(node), None),) for node in new}
            return
        kind, content = self.question
        requests = {node: Message(content, node, kind, ttl=self.timeout) for node in new}
        taken = {member.client: member for node in present for member in self.members.get(node, ())}
        for node, answer in exchange(self.grid, requests, self.timeout).items():
            try:
                if isinstance(answer, FlowerError):
                    raise answer
                members = self.read(node, answer.content)
                for member in members:
                    _check_beside(taken, member)
            except FlowerError as error:
                reason = reason_of(error)
                if self.refused.get(node) != reason:  # they are asked again and again
                    log.warning("node %d is left out: %s", node, reason)
                self.refused[node] = reason
            else:
                self.members[node] = members
                self.refused.pop(node, None)
                taken |= {member.client: member for member in members}

    def here(self) -> Mapping[str, Member]:
        """Client -> the node that it is on now, of those that the grid has."""
        present = set(self.grid.get_node_ids())
        return {member.client: member for node, own in self.members.items() if node in present for member in own}


def _check_beside(others: Mapping[str, Member], member: Member) -> None:
    """Refuse a client that cannot take part beside those that do."""
    if member.client in others:
        raise FlowerError(f"another node is {member.client!r} already")
    if any(other.own != member.own for other in others.values()):
        has, have = ("data of its own", "clients of the configuration")[:: 1 if member.own else -1]
        raise FlowerError(
            f"it has {has}, and the nodes before it have {have}; give all of them partition-id, or all of them data of "
            "their own"
        )


def _simulated(grid: Grid) -> bool:
    """Whether nodes are Flower's simulation: all there from the start, and no more of them come."""
    return type(grid).__name__ == "InMemoryGrid"  # by name: it has moved between Flower's versions


def exchange(grid: Grid, requests: Mapping[Key, Message], seconds: float) -> dict[Key, Message | FlowerError]:
    """One reply per request, or what became of it within the time, in the order of the requests."""
    if not requests:
        return {}
    answers: dict[Key, Message | FlowerError] = {}
    numbers: Iterable[str | None] = grid.push_messages(list(requests.values()))  # None: its node has gone meanwhile
    sent = list(zip(numbers, requests, strict=True))
    waiting = {number: key for number, key in sent if number is not None}
    answers |= {key: FlowerError("Flower did not take the message") for number, key in sent if number is None}
    start = time.monotonic()
    while waiting and time.monotonic() < start + seconds:
        for number in list(waiting):
            for answer in _pulled(grid, number):
                answers[waiting.pop(number)] = answer
        if waiting:
            time.sleep(min(max(SHARE * (time.monotonic() - start), SHORTEST), LONGEST))
    answers |= {key: FlowerError(f"no reply within {seconds:g} s") for key in waiting.values()}
    return {key: answers[key] for key in requests}


def _pulled(grid: Grid, number: str) -> list[Message | FlowerError]:
    """The reply to a message, once it has come.

    One at a time: Flower puts a reply together from parts that the node has made, and where that fails, all that was
    asked for in the same call is lost.
    """
    try:
        found = list(grid.pull_messages([number]))
    except (httpx.HTTPError, OSError):  # the SuperLink's failure, and not a node's
        raise
    except Exception as error:  # whatever a node's parts can break in Flower
        return [
            FlowerError(one_line(f"its reply cannot be put together: {type(error).__name__}: {error}", LONGEST_REASON))
        ]
    return [_good(message) for message in found[:1]]


def _good(message: Message) -> Message | FlowerError:
    if message.has_error():
        return FlowerError(one_line(message.error.reason or "no reason given", LONGEST_REASON))
    if not message.has_content() or not isinstance(message.content, RecordDict):
        return FlowerError("its reply has no records")
    return message


def reason_of(error: FlowerError) -> str:
    """Why a node's answer does not count. It may quote the node: on one line, and no longer than anybody reads."""
    return one_line(str(error), LONGEST_REASON)


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
        wanted: clients.
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
        messages = {client: request for client, request in asked.items() if not isinstance(request, FlowerError)}
        failures |= {client: str(error) for client, error in asked.items() if isinstance(error, FlowerError)}
        for client, answer in exchange(grid, messages, seconds).items():
            try:
                if isinstance(answer, FlowerError):
                    raise answer
                found[client] = read(client, answer)
            except FlowerError as error:
                failures[client] = reason_of(error)
                node = messages[client].metadata.dst_node_id
                log.warning("%s (node %d) gave no good reply: %s", client, node, failures[client])
        if len(found) >= least:
            break
        log.warning("%d of %d clients replied, expected %d", len(found), len(wanted), least)
    failures = {client: failures[client] for client in wanted if client not in found}
    if len(found) < least:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failures.items())[:5])
        raise FlowerError(f"{len(found)} good replies after {1 + repeats} attempts, expected {least} ({reasons})")
    return found, failures
