"""Rounds whose updates the server never sees: it gets masked contributions and opens their sum."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from polyrank.aggregation import Download, Method, Partial
from polyrank.aggregation.diagnostics import owners_weight
from polyrank.config import Config
from polyrank.core.errors import AdapterError, ConfigError, SecureError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.contribution import Plan, plan_of
from polyrank.federation.gathering import Gather, Gathered, Told
from polyrank.federation.round import parts_of
from polyrank.federation.traffic import down
from polyrank.federation.tree import Node, RoundResult, levels
from polyrank.ranks import RankPolicy
from polyrank.secure import client as member
from polyrank.secure.attempt import Carrier, Total, Traffic, attempt
from polyrank.secure.primitives import check_installed
from polyrank.secure.ring import Ring
from polyrank.secure.values import Card, Roster, Shares, Together
from polyrank.training.work import Moved, Outcome, Work

if TYPE_CHECKING:
    from polyrank.federation.server import Server

log = logging.getLogger(__name__)


class Training(Carrier[Plan], Protocol):
    """A carrier of one attempt whose clients train before they mask.

    Args:
        failures: client -> why it dropped out.
        outcomes: client -> what it said of its training, without what it trained.
        moved: client -> bytes of its work that travelled.
    """

    outcomes: dict[str, Outcome]
    moved: dict[str, Moved]


Carried = Callable[["Server", Sequence[Work], Mapping[str, Download], Told], Training]
"""Makes the carrier of one attempt at a round."""


@dataclass(frozen=True, eq=False)
class Masked(Gather):
    """The server has a sum of masked contributions, and opens it when enough clients have come to its end.

    Args:
        carried: makes the carrier of each attempt.
        repeats: how often a round is repeated that came to no sum; nothing of it was revealed.
        least: clients without whom it does not count, whatever ``secure.survivors`` says.
    """

    carried: Carried
    repeats: int = 0
    least: int = 0

    def __call__(
        self, server: Server, state: ServerState, works: Sequence[Work], sent: Mapping[str, Download], told: Told
    ) -> Gathered:
        """See `Gather`.

        Raises:
            SecureError: too few clients came to the end of every attempt.
        """
        clients = [work.client for work in works]
        traffic, moved = Traffic(), dict.fromkeys(clients, Moved())
        least = max(threshold(server.config, len(clients)), min(self.least, len(clients)))
        planned = partial(_planned, server, state, len(clients))
        for remaining in range(self.repeats, -1, -1):
            carrier = self.carried(server, works, sent, told)
            try:
                plan, total = attempt(carrier, secrets.token_hex(16), clients, least, planned=planned, traffic=traffic)
                with server.site.clock("aggregation"):
                    result = concluded(server.method, state, plan, total, local_head=server.local_head)
                break
            except SecureError as error:
                if not remaining:
                    raise
                log.warning("round %d is repeated: %s", state.round + 1, error)
            finally:
                moved = {client: one + carrier.moved.get(client, Moved()) for client, one in moved.items()}
        reasons = dict.fromkeys(clients, "it dropped out of the secure sum") | dict(carrier.failures)
        lost = {client: reasons[client] for client in clients if client not in total.survivors}
        outcomes = [
            Outcome(client, problem=lost[client]) if client in lost else carrier.outcomes[client] for client in clients
        ]
        moved = {c: one + Moved(traffic.down.get(c, 0), traffic.up.get(c, 0)) for c, one in moved.items()}
        outcomes = [replace(one, moved=moved[one.client]) for one in outcomes]
        uniform = server.config.aggregation.weights == "uniform"
        kept = [  # ranks and weights are known; in the place of what was trained stands what was sent
            ClientUpdate(one.client, sent[one.client].adapter.prefix(rank), 1.0 if uniform else one.weight)
            for one in outcomes
            if (rank := plan.ranks.get(one.client)) and one.client in result.used
        ]
        owned = owners_weight(kept, state.adapter.rank)
        return Gathered(outcomes, (), replace(result, dropped={**lost, **result.dropped}), owned)


def _planned(server: Server, state: ServerState, count: int, sharers: Sequence[str]) -> tuple[Plan, Together]:
    """The plan for those that have shared out their secrets, and whose rows are summed apart."""
    options, ranks = server.config.secure, {client: state.ranks[client] for client in sharers}
    ring = Ring(options.bits, count, options.clip, largest_weight(server))
    plan = plan_of(server.method, state, ranks, ring, options.min_owners)
    return plan, plan.together(server.method)


def threshold(config: Config, clients: int) -> int:
    """Clients of a round that must come to its end."""
    return max(2, math.ceil(round(config.secure.survivors * clients, 9)))


def largest_weight(server: Server) -> float:
    """The largest weight of a client: it is known, since clients say how many examples they have."""
    config = server.config
    if config.secure.max_weight != "auto":
        return config.secure.max_weight
    return 1.0 if config.aggregation.weights == "uniform" else float(max(server.population.sizes.values()))


def concluded(method: Method, state: ServerState, plan: Plan, total: Total, *, local_head: bool) -> RoundResult:
    """The server's next state from an opened sum.

    Raises:
        SecureError: the sum is not one of these clients.
    """
    kept = replace(state, ranks={**state.ranks, **plan.ranks})
    node = Node(kept, method, plan.ranks, local_head=local_head)
    like = method.start(kept, levels(kept, plan.ranks)).empty()
    sums = plan.ring.decode(total.vector, like)
    plan.check_owners(method, sums, total.survivors)
    try:
        node.take(Partial(sums.tensors), total.survivors)
    except AdapterError as error:
        raise SecureError(f"{error}: a client sent another sum") from None
    result = node.finish()
    return replace(result, state=replace(result.state, ranks=state.ranks))


class Here:
    """A carrier to clients of this process: training by the server's engine, and the protocol's steps one by one.

    Args:
        server: whose engine trains.
        works: of the cohort.
        sent: the cohort's read-outs.
        told: of progress.
    """

    def __init__(self, server: Server, works: Sequence[Work], sent: Mapping[str, Download], told: Told) -> None:
        self.server, self.works, self.sent, self.told = server, {work.client: work for work in works}, sent, told
        self.outcomes: dict[str, Outcome] = {}
        self.failures: dict[str, str] = {}
        self.moved: dict[str, Moved] = {}
        self._opened: dict[str, member.Opened] = {}
        self._shared: dict[str, member.Shared] = {}
        self._masked: dict[str, member.Sent] = {}

    def cards(self, token: str, clients: Sequence[str]) -> Mapping[str, Card]:
        """See `Carrier`."""
        self._opened = {client: member.opened(token, client) for client in clients}
        return {client: opened.card for client, opened in self._opened.items()}

    def sealed(self, roster: Roster) -> Mapping[str, Mapping[str, str]]:
        """See `Carrier`."""
        found = {client: member.shared(self._opened[client], roster) for client in roster.cards}
        self._shared = {client: state for client, (state, _) in found.items()}
        return {client: told for client, (_, told) in found.items()}

    def masked(self, plan: Plan, inboxes: Mapping[str, Mapping[str, str]]) -> Mapping[str, np.ndarray]:
        """See `Carrier`; a client that trained nothing, or what is out of range, drops out."""
        server, works = self.server, [self.works[client] for client in inboxes]
        parts = parts_of(server.method, plan.round, local_head=server.local_head)
        self.moved = {client: Moved(down=down(parts, self.sent[client])) for client in inboxes}
        found: dict[str, np.ndarray] = {}
        together = plan.together(server.method)
        for count, outcome in enumerate(server.engine.run(works), 1):
            self.told(count, len(works))
            client = outcome.client
            try:
                vector = contributed(plan, server.method, server.config, self.works[client], outcome)
                state = self._shared[client]
                self._masked[client], found[client] = member.masked(state, inboxes[client], vector, together)
                self.outcomes[client] = replace(outcome, trained={})
            except SecureError as error:
                self.failures[client] = str(error)
        return found

    def shares(self, survivors: Sequence[str]) -> Mapping[str, Shares]:
        """See `Carrier`."""
        return {client: member.told(self._masked[client], survivors) for client in survivors}


def contributed(plan: Plan, method: Method, config: Config, work: Work, outcome: Outcome) -> np.ndarray:
    """A client's contribution before it is masked, on the client.

    Raises:
        SecureError: nothing was trained, or a value or the weight is out of range; nothing is sent then.
    """
    update = outcome.update(work)
    if update is None:
        raise SecureError(outcome.problem or "it trained nothing")
    uniform, local_head = config.aggregation.weights == "uniform", config.federation.head == "local"
    sums = plan.contribution(method, work.adapter, update, uniform=uniform, local_head=local_head)
    return plan.ring.encode(sums)


def check_secure(config: Config, method: Method, policy: RankPolicy, clients: int) -> None:
    """Refuse what needs a client's own factors, before any work is done.

    Args:
        config: with ``secure.enabled``.
        method: of aggregation.
        policy: of ranks.
        clients: how many take part in a round.

    Raises:
        ConfigError: the method, its options or the rank policy need them; or too few take part in a round.
    """
    check_installed()
    name, info = config.aggregation.method, method.info
    ranks, align = config.ranks, config.aggregation.options.get("align", "none")
    keeps = method.keeps(local_head=config.federation.head == "local")
    reasons = (
        (
            not info.fixed_sums,
            f"aggregation.method {name} needs every client's factors and not their sum",
        ),
        (info.own_weights, f"aggregation.method {name} weighs clients by what they send, which has no limit"),
        (info.judges, f"aggregation.method {name} has the server measure each client's model"),
        (not info.first_indices, f"with aggregation.method {name} a client owns others than the first rows"),
        (
            align != "none",
            f"aggregation.options.align {align} turns clients towards an adapter that they lack",
        ),
        (bool(keeps), f"{' and '.join(sorted(keeps))} would stay with each client, and be scored by the server"),
        (
            policy.scores_clients,
            f"ranks.policy {ranks.policy} scores each client's adapter",
        ),
        (policy.prunes, f"ranks.policy {ranks.policy} looks at each client's update"),
    )
    for refused, reason in reasons:
        if refused:
            raise ConfigError(f"secure.enabled: {reason}; take another one (see: polyrank methods, ranks.policy fixed)")
    least = max(threshold(config, clients), config.secure.min_owners)
    if clients < least:
        raise ConfigError(
            f"secure.enabled: {clients} clients take part in a round, expected {least} or more (secure.min_owners); "
            "raise federation.participation"
        )
