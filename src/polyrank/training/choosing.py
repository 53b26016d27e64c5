"""Clients that choose which rank indices they train: by a probe, and then from the start.

The probe is the round's local training of all rank indices. Each is scored by how far it moved the module's product,
``s |b'_j - b_j| |a_j|`` where B is trained, ``s |b_j| |a'_j - a_j|`` where A is, the best ones are kept, whatever their
modules, and only they are trained in a second training from the same start; the others are frozen in the base. That
the probe is a whole local training, and the score, are our reading of Koo et al., ACL 2025 (LoRA-A2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.training.work import Engine, Outcome, Work, in_order

Chosen = Mapping[str, tuple[int, ...]]
"""Module -> rank indices, ascending."""


@dataclass(frozen=True, eq=False)
class Choosing(Engine):
    """An engine whose clients choose rank indices, where their works ask for that.

    Args:
        inner: does the work, twice where a client chooses.
    """

    inner: Engine

    @property
    def wire(self) -> str:  # type: ignore[override]  # that of the inner engine
        """It is that of the inner engine."""
        return self.inner.wire

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """See `Engine`; of what was chosen, the outcome has the tensors of those rank indices and says which."""
        if all(work.chooses is None for work in works):
            yield from self.inner.run(works)
            return
        asked = {work.client: work for work in works}
        chosen: dict[str, Chosen] = {}
        failed: list[Outcome] = []
        for outcome in self.inner.run([replace(work, chooses=None) for work in works if work.chooses is not None]):
            work, update = asked[outcome.client], outcome.update(asked[outcome.client])
            if update is None:
                failed.append(outcome)
            elif bad := update.adapter.first_not_finite():
                problem = f"NaN or infinite values in {bad} after the training by which it would choose"
                failed.append(Outcome(outcome.client, problem=problem))
            else:
                chosen[work.client] = best(work.adapter, update.adapter, work.chooses or 0)
        lost = {outcome.client for outcome in failed}
        left = [narrowed(work, chosen.get(work.client)) for work in works if work.client not in lost]
        done = (picked(outcome, chosen.get(outcome.client)) for outcome in self.inner.run(left))
        yield from in_order(works, chain(failed, done))

    def close(self) -> None:
        """See `Engine`."""
        self.inner.close()


def best(start: Adapter, probed: Adapter, count: int) -> Chosen:
    """The ``count`` rank indices, over all modules, whose products moved furthest; ties in the modules' order.

    Args:
        start: what the probe began with.
        probed: what it made of it, with the same other factor.
        count: how many, at most all.
    """
    scores = {name: moved(factors, probed.modules[name]) for name, factors in start.modules.items()}
    names = [(name, j) for name, own in scores.items() for j in range(len(own))]
    order = torch.cat(list(scores.values())).argsort(descending=True, stable=True)[:count].tolist()
    kept = {names[i] for i in order}
    return {name: tuple(j for j in range(len(own)) if (name, j) in kept) for name, own in scores.items()}


def moved(before: Factors, after: Factors) -> Tensor:
    """``|s (b'_j a'_j - b_j a_j)|_F`` of every rank index j, ``(rank,)`` in float64, where one factor stayed."""
    start, end = before.map(Tensor.double), after.map(Tensor.double)
    of_a = torch.linalg.vector_norm(start.b, dim=0) * torch.linalg.vector_norm(end.a - start.a, dim=1)
    of_b = torch.linalg.vector_norm(end.b - start.b, dim=0) * torch.linalg.vector_norm(start.a, dim=1)
    return torch.mul(of_a + of_b, abs(before.scale))


def narrowed(work: Work, chosen: Chosen | None) -> Work:
    """The work with the other rank indices in the frozen base; None for the work as it is.

    In the adapter they are zero in both factors, so that no gradient reaches them.
    """
    if chosen is None:
        return work
    modules, frozen = {}, dict(work.base_change.modules) if work.base_change else {}
    for name, factors in work.adapter.modules.items():
        kept = torch.zeros(factors.rank, dtype=torch.bool)
        kept[list(chosen[name])] = True
        modules[name] = Factors(factors.a * kept[:, None], factors.b * kept, factors.scale)
        rest = factors.picked((~kept).nonzero().flatten())
        if rest.rank > 0:
            frozen[name] = _beside(frozen.get(name), rest)
    change = Adapter(frozen) if frozen else None
    return replace(work, adapter=Adapter(modules, work.adapter.dense), base_change=change, chooses=None)


def picked(outcome: Outcome, chosen: Chosen | None) -> Outcome:
    """The outcome with the rank indices that were chosen alone; None for the outcome as it is."""
    if chosen is None or outcome.trained is None:
        return outcome
    trained = dict(outcome.trained)
    for name, own in chosen.items():
        rows = torch.tensor(own, dtype=torch.int64)
        if f"{name}.a" in trained:
            trained[f"{name}.a"] = trained[f"{name}.a"][rows]
        if f"{name}.b" in trained:
            trained[f"{name}.b"] = trained[f"{name}.b"][:, rows]
    return replace(outcome, trained=trained, indices=chosen)


def _beside(change: Factors | None, rest: Factors) -> Factors:
    """Two frozen updates of one module as one."""
    if change is None:
        return rest
    a = torch.cat([change.a, rest.a.to(change.a.dtype)])
    return Factors(a, torch.cat([change.scale * change.b, rest.scale * rest.b.to(change.b.dtype)], dim=1))
