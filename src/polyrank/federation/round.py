"""One round as functions on `ServerState`: who takes part, what they are sent, what becomes of what they send back."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from numpy.random import Generator
from torch import Tensor

from polyrank.aggregation import Download, Method, Parts
from polyrank.aggregation.kernels.updates import check_indices
from polyrank.core.adapter import Adapter, Factors, Part
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.seeds import numpy_generator
from polyrank.core.shares import part_of
from polyrank.core.state import ClientUpdate, ServerState


def cohort(clients: Sequence[str], participation: float, seed: int, round_number: int) -> tuple[str, ...]:
    """The clients of a round: drawn without replacement from (seed, round) alone, sorted by name.

    So many as the share says, rounded half up, and at least one.
    """
    names = sorted(clients)
    size = cohort_size(len(names), participation)
    drawn = numpy_generator(seed, "cohort", round_number).choice(len(names), size=size, replace=False)
    return tuple(names[i] for i in sorted(drawn))


def poisson_cohort(clients: Sequence[str], participation: float, generator: Generator) -> tuple[str, ...]:
    """The clients of a round that each take part with the same probability, sorted by name; it may be nobody.

    Args:
        clients: names, in any order.
        participation: the probability.
        generator: of this round.
    """
    names = sorted(clients)
    return tuple(name for name, drawn in zip(names, generator.random(len(names)), strict=True) if drawn < participation)


def cohort_size(clients: int, participation: float) -> int:
    """How many of so many clients take part in a round."""
    return max(1, part_of(clients, participation))


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


def parts_of(method: Method, round_number: int, *, local_head: bool) -> Parts:
    """What is trained and what travels in a round, with the head where the configuration wants it."""
    parts = method.parts(round_number)
    return parts.with_local_head() if local_head else parts


def read_out(state: ServerState, client: str, method: Method) -> Download:
    """What the server knows of the client's start: the method's read-out at its rank, under its own scale.

    Where B is frozen the scale changes nothing, neither the product nor A's gradient: it is the server's, so that all
    have the very same B. A sketch is scaled up beside (`Method.scaled_up`).
    """
    download = method.read_out(state, state.ranks[client], client)
    if "b" not in method.parts(state.round + 1).trains:
        return Download(Adapter(download.adapter.modules, state.adapter.dense), download.base_change)
    scale, whole = state.scales[client], state.adapter.modules
    modules = {
        name: factors.rescaled(scale * method.scaled_up(factors.rank, whole[name].rank))
        for name, factors in download.adapter.modules.items()
    }
    return Download(Adapter(modules, state.adapter.dense), download.base_change)


def start_of(state: ServerState, client: str, method: Method) -> Hashable:
    """What a client's read-out depends on: rank and scale, and its name where rank indices are drawn for it."""
    return state.ranks[client], state.scales[client], client if method.info.draws_indices else ""


def read_outs(state: ServerState, clients: Iterable[str], method: Method) -> dict[str, Download]:
    """`read_out` of several clients; those that start from the same share one, which is computed once."""
    made: dict[Hashable, Download] = {}
    found: dict[str, Download] = {}
    for client in clients:
        key = start_of(state, client, method)
        if key not in made:
            made[key] = read_out(state, client, method)
        found[client] = made[key]
    return found


def personalise(state: ServerState, client: str, download: Download) -> Download:
    """What the client trains: its read-out, with the tensors that stay with it in their place.

    A client that has none yet starts from the read-out.
    """
    own = state.personal.get(client)
    return replace(download, adapter=download.adapter.replaced(own)) if own else download


def travelling(adapter: Adapter, parts: frozenset[Part]) -> list[Tensor]:
    """The tensors of an adapter that travel, where only ``parts`` do."""
    return list(adapter.parts(parts).values())


def nbytes(adapter: Adapter, parts: frozenset[Part], base_change: Adapter | None = None) -> int:
    """Bytes of what travels; a base change always does."""
    return sum(t.nbytes for t in travelling(adapter, parts)) + (base_change.nbytes if base_change else 0)


def as_received(update: ClientUpdate, known: Adapter, sends: frozenset[Part]) -> ClientUpdate:
    """The update as the server has it: what was not sent is what the server itself read out."""
    modules = {
        name: Factors(
            factors.a if "a" in sends else known.modules[name].a,
            factors.b if "b" in sends else known.modules[name].b,
            factors.scale,
        )
        for name, factors in update.adapter.modules.items()
    }
    return replace(update, adapter=Adapter(modules, update.adapter.dense if "head" in sends else {}))


def kept_by(update: ClientUpdate, keeps: frozenset[Part]) -> dict[str, Tensor]:
    """The tensors that stay with the client, by the names of `Adapter.tensors`."""
    return update.adapter.parts(keeps)


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


def accepted(
    update: ClientUpdate, known: Adapter, sends: frozenset[Part], *, uniform: bool, chooses: bool = False
) -> ClientUpdate | str:
    """The update as it is added up, or why it is left out.

    Args:
        update: what came back.
        known: what the client was sent.
        sends: the parts that travel.
        uniform: whether every client weighs 1 instead of its own weight.
        chooses: whether clients choose of which rank indices their rows are.
    """
    if update.indices is not None:
        try:
            check_indices(update, known, chooses=chooses)
        except AdapterError as error:
            return str(error)
        known = known.picked(update.indices)
    reason = problem(update, known)
    if reason is not None:
        return reason
    received = as_received(update, known, sends)
    return replace(received, weight=1.0) if uniform else received


def in_whole(update: ClientUpdate, sent: Adapter) -> ClientUpdate:
    """The update with all that the client was sent, where it chose rank indices: the others are as they were sent."""
    if update.indices is None:
        return update
    modules = {}
    for name, own in update.adapter.modules.items():
        rows = torch.tensor(update.indices[name], dtype=torch.int64)
        a, b = sent.modules[name].a.to(own.a.dtype, copy=True), sent.modules[name].b.to(own.b.dtype, copy=True)
        a[rows], b[:, rows] = own.a, own.b
        modules[name] = Factors(a, b, own.scale)
    return replace(update, adapter=Adapter(modules, update.adapter.dense), indices=None)


def with_ranks(state: ServerState, ranks: Mapping[str, int], scales: Mapping[str, float]) -> ServerState:
    """The state with other ranks and scales.

    Factors that stay with a client lose their last rank indices, and their B is brought to the new scale, so that the
    rest of the client's delta is what it was.
    """
    personal = {client: dict(own) for client, own in state.personal.items()}
    for client, own in personal.items():
        for name in state.adapter.modules:
            if f"{name}.a" in own:
                own[f"{name}.a"] = own[f"{name}.a"][: ranks[client]]
            if f"{name}.b" in own:
                own[f"{name}.b"] = own[f"{name}.b"][:, : ranks[client]] * (state.scales[client] / scales[client])
    return replace(state, ranks=dict(ranks), scales=dict(scales), personal=personal)


def global_model(state: ServerState) -> Adapter:
    """The adapter and the base change beside it as one adapter."""
    return joined(state.adapter, state.base_change)


def joined(adapter: Adapter, base_change: Adapter | None) -> Adapter:
    """An adapter and a base change as one adapter at the adapter's scale: ranks add up."""
    if base_change is None:
        return adapter
    modules = dict(adapter.modules)
    for name, change in base_change.modules.items():
        factors = modules[name]
        b = (change.b * (change.scale / factors.scale)).to(factors.b.dtype)
        a = torch.cat([factors.a, change.a.to(factors.a.dtype)])
        modules[name] = Factors(a, torch.cat([factors.b, b], dim=1), factors.scale)
    return Adapter(modules, adapter.dense)


def mean_base_change(updates: Sequence[ClientUpdate], sent: Mapping[str, Download]) -> Adapter | None:
    """The weighted mean of the base changes that the clients of these updates were ``sent``; for diagnostics.

    With one base change for all it is that one. Different ones are stacked.
    """
    total = sum(update.weight for update in updates)
    changes: list[Adapter] = []
    weights: list[float] = []
    for update in updates:
        change = sent[update.client].base_change
        if change is None:
            continue
        place = next((i for i, known in enumerate(changes) if known is change), len(changes))
        if place == len(changes):
            changes.append(change)
            weights.append(0.0)
        weights[place] += update.weight / total
    modules: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for change, weight in zip(changes, weights, strict=True):
        for name, factors in change.modules.items():
            rows, columns = modules.setdefault(name, ([], []))
            rows.append(factors.a)
            columns.append(factors.b * (factors.scale * weight))
    if not modules:
        return None
    return Adapter({name: Factors(torch.cat(a), torch.cat(b, dim=1)) for name, (a, b) in modules.items()})
