"""Aggregation in a tree: edge servers add up their own clients' updates and send one message of sums upwards.

The same accumulators as in a flat federation, so the result is the same up to rounding, whatever the tree. The sums of
kernel 1 are as large as one adapter (two with donors) however many clients an edge has; kernel 2 keeps every client's
factors (unless it compresses), so there a tree shares out work and connections, not bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polyrank import packed
from polyrank.adapter import Adapter
from polyrank.aggregation import Accumulator, Method, Partial, Portable
from polyrank.errors import AdapterError, ConfigError
from polyrank.federation.round import accepted, conclude, parts_of, read_out
from polyrank.state import ClientUpdate, ServerState

FORMAT = 1


@dataclass(frozen=True, eq=False)
class TreeResult:
    """What a round's aggregation in a tree gives.

    Args:
        state: the server after the round.
        used: the clients that counted, sorted.
        dropped: client -> why its update was left out.
        metrics: what the method measured.
    """

    state: ServerState
    used: tuple[str, ...]
    dropped: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(eq=False)
class Node:
    """One server of the tree: an edge that takes updates, a server between, or the root; it may be several at once.

    What stays with a client (`Parts.keeps`) stays there: a tree is for clients that keep their own.

    Args:
        state: before the round, the same on all nodes.
        method: the same on all nodes.
        uniform: whether every client weighs 1 instead of its own weight.
        local_head: whether heads stay with their clients.

    Raises:
        ConfigError: the method's sums cannot be sent; it is named.
    """

    state: ServerState
    method: Method
    uniform: bool = False
    local_head: bool = False
    used: set[str] = field(default_factory=set, init=False)
    dropped: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._sums = self._empty()
        self._sends = parts_of(self.method, self.state.round + 1, local_head=self.local_head).sends
        self._sent: dict[tuple[int, float], Adapter] = {}

    def add(self, update: ClientUpdate) -> None:
        """Fold one client's update in, or leave it out by name; then it can be forgotten.

        Raises:
            AdapterError: the client has no rank in the state, or has been counted already.
        """
        if update.client not in self.state.ranks:
            raise AdapterError(f"client {update.client} has no rank in this federation; expected one of its clients")
        self._check_new({update.client})
        received = accepted(update, self._read_out(update.client), self._sends, uniform=self.uniform)
        if isinstance(received, str):
            self.dropped[update.client] = received
        else:
            self._sums.add(received)
            self.used.add(update.client)

    def fold(self, message: bytes) -> None:
        """Fold in what a node below has sent.

        Raises:
            AdapterError: it is damaged, of another round or method, has sums that are not finite, or holds a client
                that has been counted already; nothing has been added then.
        """
        header, tensors = packed.unpack(message)
        for key, expected in self._about().items():
            if header.get(key) != expected:
                raise AdapterError(f"an edge sent sums of {key} {header.get(key)!r}; expected {expected!r}")
        used, dropped, about = _names(header.get("used")), header.get("dropped"), header.get("sums")
        if used is None or not isinstance(dropped, dict) or _names(list(dropped.values())) is None:
            raise AdapterError("an edge sent sums without its clients' names; expected those used and dropped")
        if not isinstance(about, dict):
            raise AdapterError(f"an edge sent {type(about).__name__} in place of a description of its sums")
        self._check_new({*used, *dropped})
        other = self._empty()
        other.restore(Partial(about, tensors))
        self._sums.merge(other)
        self.used |= set(used)
        self.dropped |= dropped

    def pack(self) -> bytes:
        """The message for the node above: sums as safetensors, and the names of the clients in them."""
        partial = self._sums.dump()
        names = {"used": sorted(self.used), "dropped": self.dropped}
        return packed.pack({**self._about(), **names, "sums": partial.about}, partial.tensors)

    def finish(self) -> TreeResult:
        """At the root: the state after the round. Without any update, or if sums overflow, the adapter stays."""
        unchanged = replace(self.state, round=self.state.round + 1)
        if not self.used:
            return TreeResult(unchanged, (), self.dropped, {})
        result = conclude(self.state, self._sums)
        if isinstance(result, str):
            return TreeResult(unchanged, (), self.dropped | dict.fromkeys(self.used, result), {})
        after, metrics = result
        return TreeResult(after, tuple(sorted(self.used)), self.dropped, metrics)

    def _about(self) -> dict[str, Any]:  # Any: JSON
        options = json.loads(json.dumps(asdict(self.method)))  # type: ignore[call-overload]  # they are dataclasses
        return {"format": FORMAT, "round": self.state.round + 1, "method": self.method.info.name, "options": options}

    def _empty(self) -> Portable:
        sums: Accumulator = self.method.start(self.state)
        if not isinstance(sums, Portable):
            raise ConfigError(
                f"aggregation.method {self.method.info.name} cannot be aggregated in a tree: its accumulator "
                f"({type(sums).__name__}) has no dump and restore; write them, or take a method whose accumulator has"
            )
        return sums

    def _read_out(self, client: str) -> Adapter:
        key = self.state.ranks[client], self.state.scales[client]
        if key not in self._sent:
            self._sent[key] = read_out(self.state, client, self.method).adapter
        return self._sent[key]

    def _check_new(self, clients: set[str]) -> None:
        if twice := sorted(clients & (self.used | self.dropped.keys())):
            raise AdapterError(f"client {twice[0]} has been counted already; expected each in one part of the tree")


def _names(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(name, str) for name in value) else None
