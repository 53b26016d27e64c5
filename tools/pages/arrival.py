"""How much of what a client learned in a rank index arrives in the global model: measured by running the method.

A small first round: four clients of equal weight and of the ranks 6, 3, 3 and 2 (3 each where ranks must be equal)
start from what the method sends them and change what it trains. Then one rank index of one client at a time is left as
it was sent, and the round is concluded again. The difference of the two global models, relative to what the client's
own product lost by it, is what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.aggregation import METHODS, Method
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.tree import Hooks, Node

RANKS = {"ann": 6, "bob": 3, "cem": 3, "dee": 2}
D_OUT, D_IN = 9, 12
CAPTION = (
    "Four clients of equal weight (where the server measures models, each half a nat worse than the one before), ranks "
    "6, 3, 3 and 2 (equal ones where the method needs them), one round. A number is how much of what the client "
    "changed in that rank index arrives in the global model, in per cent: 25 is its share of the weight. A dash is a "
    "rank index that the client does not have. Computed by running the method (`tools/pages/arrival.py`)."
)


class UnmeasuredError(Exception):
    """The round above is none for the method: it leaves an update out, or refuses it."""


@dataclass(frozen=True)
class Arrived:
    """Of each client its rank indices' shares, `None` where it has none."""

    shares: Mapping[str, Sequence[float | None]]
    of_a: bool
    """Whether A was looked at alone, since B stays with the clients."""


def measure(name: str) -> Arrived:
    """All shares of a method with its default options.

    Raises:
        UnmeasuredError: the method takes no such updates.
    """
    method = METHODS[name]()
    ranks = dict.fromkeys(RANKS, 3) if method.info.equal_ranks else dict(RANKS)
    server = _server(ranks)
    federation = _Round(method, server, _updates(method, server, ranks), of_a="b" not in method.parts(1).sends)
    whole = federation.model()
    shares = {
        client: [federation.share(client, j, whole) if j < rank else None for j in range(max(ranks.values()))]
        for client, rank in ranks.items()
    }
    return Arrived(shares, federation.of_a)


def _server(ranks: Mapping[str, int]) -> ServerState:
    """Before the first round: A random, B zero."""
    generator = torch.Generator().manual_seed(0)
    rank = max(ranks.values())
    a = torch.randn(rank, D_IN, generator=generator, dtype=torch.float64) / D_IN**0.5
    factors = Factors(a, torch.zeros(D_OUT, rank, dtype=torch.float64), 2.0)
    return ServerState(0, Adapter({"layer": factors}), ranks, dict.fromkeys(ranks, 2.0))


def _updates(method: Method, server: ServerState, ranks: Mapping[str, int]) -> dict[str, ClientUpdate]:
    generator = torch.Generator().manual_seed(1)
    trains = method.parts(1).trains
    found = {}
    for number, client in enumerate(ranks):
        start = _start(method, server, client)
        change_a = torch.randn(start.a.shape, generator=generator, dtype=torch.float64) / 20
        change_b = torch.randn(start.b.shape, generator=generator, dtype=torch.float64) / 5
        made = Factors(start.a + change_a * ("a" in trains), start.b + change_b * ("b" in trains), start.scale)
        own = {"layer": tuple(range(start.rank))} if method.info.chooses_indices else None
        found[client] = ClientUpdate(client, Adapter({"layer": made}), 1.0, excess=0.5 * number, indices=own)
    return found


def _start(method: Method, server: ServerState, client: str) -> Factors:
    """What the client trains, under its own scale; of one that chooses, the first rank indices, as many as it may."""
    rank = server.ranks[client]
    sent = method.read_out(server, rank, client).adapter.modules["layer"].prefix(rank)
    return sent.rescaled(server.scales[client] * method.scaled_up(rank, server.adapter.modules["layer"].rank))


@dataclass(frozen=True)
class _Round:
    """A round that can be concluded again with a change.

    Args:
        method: whose round it is.
        server: before it.
        updates: of its clients.
        of_a: whether A is looked at alone.
    """

    method: Method
    server: ServerState
    updates: Mapping[str, ClientUpdate]
    of_a: bool

    def model(self, **instead: ClientUpdate) -> Tensor:
        """The global model's product after it, or its A; ``instead`` are other updates of clients."""
        hooks = Hooks(aggregate=lambda _, result: result)  # of results to choose among, the one in the middle
        node = Node(self.server, self.method, list(self.updates), hooks=hooks)
        try:
            for update in {**self.updates, **instead}.values():
                node.add(update)
        except AdapterError as error:
            raise UnmeasuredError(str(error)) from error
        result = node.finish()
        if result.dropped:
            raise UnmeasuredError("; ".join(f"the update of {who} is {why}" for who, why in result.dropped.items()))
        state = result.state
        factors = state.adapter.modules["layer"]
        if self.of_a:
            return factors.a
        base = state.base_change
        return factors.delta() + (base.modules["layer"].delta() if base is not None else 0.0)

    def share(self, client: str, index: int, whole: Tensor) -> float:
        """How much of one client's rank index is in the model; ``whole`` is the model as it is."""
        update = self.updates[client]
        before = update.adapter.modules["layer"]
        start = _start(self.method, self.server, client)
        a, b = before.a.clone(), before.b.clone()
        a[index], b[:, index] = start.a[index], start.b[:, index]
        after = Factors(a, b, before.scale)
        own = (before.a - after.a) if self.of_a else (before.delta() - after.delta())
        without = self.model(**{client: replace(update, adapter=Adapter({"layer": after}))})
        return float((whole - without).norm() / own.norm()) if own.any() else 0.0


def picture(name: str) -> str:
    """An SVG in the page, which follows its colours, with what it shows; or why there is none."""
    try:
        found = measure(name)
    except UnmeasuredError as error:
        return f"There is no picture of this method: in the round that is drawn for the others, {error}."
    cell, left, top = 46, 92, 24
    columns = max(len(shares) for shares in found.shares.values())
    height = top + len(found.shares) * 34 + 6
    lines = [
        '<div class="pr-arrival">',
        f'<svg viewBox="0 0 {left + columns * cell + 6} {height}" role="img" style="max-width: 26rem" '
        f'aria-label="How much of each client\'s rank indices arrives under {name}">',
    ]
    lines += [
        f'<text x="{left + j * cell + cell / 2:g}" y="15" text-anchor="middle">{j + 1}</text>' for j in range(columns)
    ]
    for i, (client, shares) in enumerate(found.shares.items()):
        y = top + i * 34
        rank = sum(share is not None for share in shares)
        lines.append(f'<text x="2" y="{y + 20}">{client}, rank {rank}</text>')
        lines += [_cell(share, left + j * cell, y, cell) for j, share in enumerate(shares)]
    said = "Of A: B stays with the clients. " if found.of_a else ""
    return "\n".join([*lines, "</svg>", "</div>", "", said + CAPTION])


def _cell(share: float | None, x: int, y: int, width: int) -> str:
    middle = f'x="{x + width / 2:g}" y="{y + 20}" text-anchor="middle"'
    if share is None:
        box = 'fill="none" stroke="var(--pr-gone)" stroke-dasharray="3 3"'
        return f'<rect x="{x + 1}" y="{y}" width="{width - 2}" height="30" {box}/><text {middle}>-</text>'
    box = f'fill="var(--pr-own)" fill-opacity="{min(1.0, 0.08 + 0.7 * share):.2f}" stroke="var(--pr-own)"'
    return f'<rect x="{x + 1}" y="{y}" width="{width - 2}" height="30" {box}/><text {middle}>{100 * share:.0f}</text>'
