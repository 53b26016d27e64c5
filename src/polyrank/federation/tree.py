"""Adding up: one server that takes all updates, or a tree of them in which edges send one message of sums upwards.

A flat round is a tree of one node. The result is the same up to rounding, whatever the tree. Sums of fixed shapes are
as large as one adapter (two with donors) however many clients an edge has; methods on products keep every client's
factors (unless they compress), so there a tree shares out work and connections, not bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from polyrank.aggregation import Aggregate, Download, Levels, Method, Partial
from polyrank.aggregation.sums import Summed
from polyrank.core import codec
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import accepted, kept_by, parts_of, read_outs, start_of

FORMAT = 3


@dataclass(frozen=True, eq=False)
class Message:
    """What a node sends to the one above it: its sums, of whom they are, and of which round.

    Args:
        format: of this message.
        round: that the sums are of.
        method: its name.
        options: of the method.
        ranks: of the clients that were asked, ascending.
        used: the clients that are in the sums, sorted.
        dropped: client -> why it is not.
        about: what the tensors do not say of the sums.
        tensors: the sums.
    """

    format: int
    round: int
    method: str
    options: Mapping[str, Any]  # Any: JSON
    ranks: tuple[int, ...]
    used: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Hooks:
    """What is done to the values between a client's training and the server's next state; nothing unless said.

    Sums under masks come in by `Node.take`; privacy and server optimisers are methods around a method
    (`polyrank.privacy`, `polyrank.aggregation.optimised`).

    Args:
        contribution: a client's contribution, before it leaves (clipped, noised, encoded).
        total: the sum over all clients, before it is concluded (noised, decoded).
        aggregate: the server before the round and what the method made of the sum.
    """

    contribution: Callable[[Summed], Summed] | None = None
    total: Callable[[Summed], Summed] | None = None
    aggregate: Callable[[ServerState, Aggregate], Aggregate] | None = None


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a round's aggregation gives.

    Args:
        state: the server after the round.
        used: the clients that counted, sorted.
        dropped: client -> why its update was left out.
        metrics: what the method measured.
        received: in a flat round the updates that counted, as the server received them, sorted by client.
    """

    state: ServerState
    used: tuple[str, ...]
    dropped: Mapping[str, str]
    metrics: Mapping[str, float]
    received: tuple[ClientUpdate, ...] = ()


def levels(state: ServerState, clients: Iterable[str]) -> Levels:
    """The different ranks that these clients hold, for each module of the adapter."""
    ranks = {state.ranks[client] for client in clients}
    modules = state.adapter.modules
    return {name: tuple(sorted({min(rank, f.rank) for rank in ranks})) for name, f in modules.items()}


@dataclass(eq=False)
class Node:
    """One server of the tree: an edge that takes updates, a server between, or the root; it may be several at once.

    Updates are checked first; a bad one is left out by name, and the others count. In a tree what stays with a client
    (`Parts.keeps`) stays there: a tree is for clients that keep their own.

    Args:
        state: before the round, the same on all nodes.
        method: the same on all nodes.
        asked: the clients that take part in the round, on all nodes together.
        uniform: whether every client weighs 1 instead of its own weight.
        local_head: whether heads stay with their clients.
        hooks: what is done to the values on the way; ``contribution`` where updates come in, the others at the root.
        sent: the clients' read-outs, where they are at hand.
    """

    state: ServerState
    method: Method
    asked: Collection[str]
    uniform: bool = False
    local_head: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    sent: Mapping[str, Download] | None = None
    used: set[str] = field(default_factory=set, init=False)
    dropped: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for client in self.asked:
            self._check_known(client)
        self._kernel = self.method.start(self.state, levels(self.state, self.asked))
        self._sums = self._kernel.empty()
        self._sends = parts_of(self.method, self.state.round + 1, local_head=self.local_head).sends
        self._starts: dict[Hashable, Adapter] = {}

    def add(self, update: ClientUpdate) -> ClientUpdate | None:
        """Fold one client's update in, or leave it out by name; then it can be forgotten.

        Returns:
            The update as it was added, None if it was left out.

        Raises:
            AdapterError: the client was not asked, or has been counted already.
        """
        self._check_known(update.client)
        if update.client not in self.asked:
            raise AdapterError(f"client {update.client} was not asked in this round; expected one of its cohort")
        self._check_new({update.client})
        start, chooses = self._start_of(update.client), self.method.info.chooses_indices
        received = accepted(update, start, self._sends, uniform=self.uniform, chooses=chooses)
        if isinstance(received, str):
            self.dropped[update.client] = received
            return None
        if self.hooks.contribution is None:
            self._sums = self._kernel.fold(self._sums, received)
        else:
            self._sums += self.hooks.contribution(self._kernel.contribution(received))
        self.used.add(update.client)
        return received

    def fold(self, message: bytes) -> None:
        """Fold in what a node below has sent.

        Raises:
            AdapterError: it is damaged, of another round, cohort or method, has sums that are not finite, or holds a
                client that has been counted already; nothing has been added then.
        """
        found, ours = codec.loads(Message, message), self._message()
        for key in ("format", "round", "method", "options", "ranks"):
            said, expected = getattr(found, key), getattr(ours, key)
            if said != expected:
                raise AdapterError(f"an edge sent sums of {key} {said!r}; expected {expected!r}")
        if strangers := sorted({*found.used, *found.dropped} - set(self.asked)):
            raise AdapterError(f"an edge sent sums of client {strangers[0]}, which was not asked in this round")
        self._check_new({*found.used, *found.dropped})
        self.take(Partial(found.tensors, found.about), found.used)
        self.dropped |= found.dropped

    def take(self, partial: Partial, clients: Collection[str]) -> None:
        """Fold in sums of these clients, of whom nobody here has the updates.

        Raises:
            AdapterError: they are not of this round, or hold a client that has been counted already.
        """
        self._check_new(set(clients))
        self._sums += self._kernel.received(partial)
        self.used |= set(clients)

    def pack(self) -> bytes:
        """The message for the node above: sums as safetensors, and the names of the clients in them."""
        partial, used = self._sums.partial(), tuple(sorted(self.used))
        message = replace(
            self._message(), used=used, dropped=self.dropped, about=partial.about, tensors=partial.tensors
        )
        return codec.dumps(message)

    def finish(self) -> RoundResult:
        """The state after the round, at the root. Without any update, or if sums overflow, the adapter stays.

        A server's adapter is always finite. The node is used up.
        """
        unchanged = replace(self.state, round=self.state.round + 1)
        if not self.used and not self.method.hides_who_came:
            return RoundResult(unchanged, (), self.dropped, {})
        result = self._conclude()
        if isinstance(result, str):
            return RoundResult(unchanged, (), self.dropped | dict.fromkeys(sorted(self.used), result), {})
        memory = {**self.state.memory, **result.memory}
        after = replace(unchanged, adapter=result.adapter, base_change=result.base_change, memory=memory)
        return RoundResult(after, tuple(sorted(self.used)), self.dropped, result.metrics)

    def _conclude(self) -> Aggregate | str:
        """What the method makes of the sums, or why they cannot be used: they overflow."""
        sums = self.hooks.total(self._sums) if self.hooks.total else self._sums
        try:
            result = self._kernel.conclude(sums)
            if self.hooks.aggregate:
                result = self.hooks.aggregate(self.state, result)
            elif result.candidates:
                raise AdapterError(
                    f"aggregation method {self.method.info.name} leaves it to a server with a validation set which of "
                    "a round's results to take, and this one has none; expected one, or the method's choose = false"
                )
            overflow = (
                result.adapter.first_not_finite()
                or (result.base_change and result.base_change.first_not_finite())
                or next((name for name, t in result.memory.items() if not bool(torch.isfinite(t).all())), None)
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch exports it unlisted; an SVD of infinite values
            overflow = "the products"
        return f"the round's sum overflows in {overflow}" if overflow else result

    def _message(self) -> Message:
        """A message without any sums."""
        options = json.loads(json.dumps(self.method.options()))
        ranks = tuple(sorted({self.state.ranks[client] for client in self.asked}))
        return Message(FORMAT, self.state.round + 1, self.method.info.name, options, ranks)

    def _start_of(self, client: str) -> Adapter:
        if self.sent is not None:
            return self.sent[client].adapter
        key = start_of(self.state, client, self.method)
        if key not in self._starts:
            self._starts[key] = read_outs(self.state, [client], self.method)[client].adapter
        return self._starts[key]

    def _check_known(self, client: str) -> None:
        if client not in self.state.ranks:
            raise AdapterError(f"client {client} has no rank in this federation; expected one of its clients")

    def _check_new(self, clients: set[str]) -> None:
        if twice := sorted(clients & (self.used | self.dropped.keys())):
            raise AdapterError(f"client {twice[0]} has been counted already; expected each in one part of the tree")


def aggregate(
    state: ServerState,
    updates: Sequence[ClientUpdate],
    method: Method,
    *,
    uniform: bool = False,
    local_head: bool = False,
    sent: Mapping[str, Download] | None = None,
    hooks: Hooks | None = None,
) -> RoundResult:
    """A flat round: one node that takes the updates in the order of the clients' names.

    Args:
        state: before the round.
        updates: what came back, in any order, heads included.
        method: the aggregation method.
        uniform: whether every client weighs 1 instead of its own weight.
        local_head: whether heads stay with their clients.
        sent: the read-outs of all clients that were asked; by default those who answered were asked.
        hooks: what is done to the values on the way.
    """
    if sent is None:
        sent = read_outs(state, (update.client for update in updates), method)
    node = Node(state, method, sent.keys(), uniform=uniform, local_head=local_head, hooks=hooks or Hooks(), sent=sent)
    keeps = parts_of(method, state.round + 1, local_head=local_head).keeps
    personal, received = dict(state.personal), []
    for update in sorted(updates, key=lambda one: one.client):
        added = node.add(update)
        if added is None:
            continue
        received.append(added)
        if keeps:
            personal[update.client] = kept_by(update, keeps)
    result = node.finish()
    if not result.used:
        return result
    return replace(result, state=replace(result.state, personal=personal), received=tuple(received))
