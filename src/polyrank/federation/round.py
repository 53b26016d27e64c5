"""One round as functions on `ServerState`: who takes part, what they are sent, what becomes of what they send back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from polyrank.adapter import Adapter
from polyrank.aggregation import Method
from polyrank.errors import ConfigError
from polyrank.seeds import numpy_generator
from polyrank.state import ClientUpdate, ServerState


def cohort(clients: Sequence[str], participation: float, seed: int, round_number: int) -> tuple[str, ...]:
    """The clients of a round: drawn without replacement from (seed, round) alone, sorted by name; at least one."""
    names = sorted(clients)
    size = max(1, round(participation * len(names)))
    drawn = numpy_generator(seed, "cohort", round_number).choice(len(names), size=size, replace=False)
    return tuple(names[i] for i in sorted(drawn))


def check_ranks(method: Method, ranks: Mapping[str, int], global_rank: int) -> None:
    """Refuse different ranks for a method that needs equal ones, before any work is done.

    The global adapter's rank counts too: clients that are all of a lower rank than it are no equals of it.

    Raises:
        ConfigError: it names a client of each rank, and the methods' command.
    """
    levels = sorted(set(ranks.values()))
    if method.info.equal_ranks and levels != [global_rank]:
        who = [f"{next(c for c in sorted(ranks) if ranks[c] == r)} has rank {r}" for r in levels]
        if global_rank not in levels:
            who.append(f"the global adapter has rank {global_rank}")
        raise ConfigError(
            f"aggregation.method {method.info.name} needs clients of equal ranks, but {', '.join(who)}; give "
            "ranks.levels one value, or take a method for different ranks (see: polyrank methods)"
        )


def read_out(state: ServerState, client: str, *, local_head: bool) -> Adapter:
    """What the client is sent: the first rows of A and columns of B up to its rank, under its own scale.

    With a local head the dense tensors do not travel.
    """
    prefix = state.adapter.prefix(state.ranks[client])
    scale = state.scales[client]
    modules = {name: factors.rescaled(scale) for name, factors in prefix.modules.items()}
    return Adapter(modules, {} if local_head else state.adapter.dense)


def personalise(state: ServerState, client: str, adapter: Adapter) -> Adapter:
    """What the client trains: what it was sent, and the tensors that stay with it (at first, the initial head)."""
    return Adapter(adapter.modules, {**state.adapter.dense, **adapter.dense, **state.personal.get(client, {})})


def without_head(update: ClientUpdate) -> ClientUpdate:
    """What travels of an update whose head stays with the client."""
    return replace(update, adapter=Adapter(update.adapter.modules))


def problem(update: ClientUpdate, sent: Adapter) -> str | None:
    """Why an update cannot be used, or None: other names or shapes than were sent, values or a weight not finite."""
    expected, found = dict(sent.tensors()), dict(update.adapter.tensors())
    if expected.keys() != found.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        return f"expected the tensors that were sent; missing: {missing or 'none'}, unknown: {extra or 'none'}"
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            return f"{name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
    bad = update.adapter.first_not_finite()
    if bad is not None:
        return f"NaN or infinite values in {bad} after local training"
    if not (math.isfinite(update.weight) and update.weight >= 0):
        return f"its weight is {update.weight}, expected a finite number of 0 or more"
    return None


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a round's aggregation gives.

    Args:
        state: the server after the round.
        used: the updates that counted, as they travelled, sorted by client.
        dropped: client -> why its update was left out.
        metrics: what the method measured.
    """

    state: ServerState
    used: tuple[ClientUpdate, ...]
    dropped: Mapping[str, str]
    metrics: Mapping[str, float]


def aggregate(
    state: ServerState, updates: Sequence[ClientUpdate], method: Method, *, uniform: bool, local_head: bool
) -> RoundResult:
    """Fold the updates into the next state.

    Updates are checked first; a bad one is left out by name, and the others count. Sums run in the order of the
    clients' names. Without any good update, or if their sum overflows, the adapter stays as it was, and the round
    counts: a server's adapter is always finite.

    Args:
        state: before the round.
        updates: what came back, in any order, heads included.
        method: the aggregation method.
        uniform: whether every client weighs 1 instead of its own weight.
        local_head: whether heads stay with their clients.
    """
    used: list[ClientUpdate] = []
    dropped: dict[str, str] = {}
    personal = dict(state.personal)
    for update in sorted(updates, key=lambda u: u.client):
        sent = personalise(state, update.client, read_out(state, update.client, local_head=local_head))
        reason = problem(update, sent)
        if reason is not None:
            dropped[update.client] = reason
            continue
        if local_head:
            personal[update.client] = dict(update.adapter.dense)
            update = without_head(update)  # noqa: PLW2901  # from here on it is what travels
        used.append(replace(update, weight=1.0) if uniform else update)
    next_round = state.round + 1
    if not used:
        return RoundResult(replace(state, round=next_round), (), dropped, {})
    accumulator = method.start(state)
    for update in used:
        accumulator.add(update)
    result = accumulator.finish()
    overflow = result.adapter.first_not_finite()
    if overflow is not None:
        reason = f"the round's sum overflows in {overflow}"
        dropped |= {update.client: reason for update in used}
        return RoundResult(replace(state, round=next_round), (), dropped, {})
    after = replace(state, round=next_round, adapter=result.adapter, personal=personal)
    return RoundResult(after, tuple(used), dropped, result.metrics)
