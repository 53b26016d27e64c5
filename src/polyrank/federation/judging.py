"""What models are worth to the server, for methods that weigh clients by it, or choose among results of a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from polyrank.aggregation import Aggregate
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.site import Site
from polyrank.federation.tree import Hooks
from polyrank.tasks.task import LOSS


def judged(site: Site, updates: Sequence[ClientUpdate]) -> tuple[list[ClientUpdate], Mapping[str, float]]:
    """The updates with the excess loss of each client's model, head included, on the server's validation set.

    Args:
        site: the server's.
        updates: of a round, bad ones included; what has values that are not finite is not measured.

    Returns:
        The updates, in their order, and by name what the losses come to: the lowest of them and their mean.
    """
    assert site.validation is not None  # `population.held_out` holds one out for such methods

    def whole(update: ClientUpdate) -> Adapter | None:
        return update.adapter if update.adapter.first_not_finite() is None else None

    found = site.measured_each((whole(update) for update in updates), site.validation)
    losses = [math.inf if scores is None else scores[LOSS] for scores in found]
    finite = [loss for loss in losses if math.isfinite(loss)]
    told = {"loss_best": min(finite), "loss_mean": sum(finite) / len(finite)} if finite else {}
    return with_excess(updates, losses), told


def hooks(site: Site) -> Hooks:
    """What a server with a validation set does around the aggregation."""
    held = site.validation
    assert held is not None

    def loss(adapter: Adapter, base_change: Adapter | None) -> float:
        return site.measured(adapter, base_change, held)[LOSS]

    return Hooks(aggregate=partial(best_of, loss))


def best_of(measure: Callable[[Adapter, Adapter | None], float], server: ServerState, result: Aggregate) -> Aggregate:
    """A hook (`Hooks.aggregate`): of a result's candidates the one of the lowest loss; the first of several equal ones.

    One whose loss is not finite is never taken, unless all are: then the global adapter stays what it was.

    Args:
        measure: the loss of an adapter and a base change on the server's validation set.
        server: before the round.
        result: of the method.
    """
    if not result.candidates:
        return result
    losses = [measure(one.adapter, one.base_change) for one in result.candidates]
    lowest = min((loss for loss in losses if math.isfinite(loss)), default=None)
    if lowest is None:
        return replace(result, adapter=server.adapter, base_change=server.base_change, candidates=())
    taken = result.candidates[losses.index(lowest)]
    return replace(taken, metrics={**result.metrics, **taken.metrics, "loss": lowest})


def with_excess(updates: Sequence[ClientUpdate], losses: Sequence[float]) -> list[ClientUpdate]:
    """The updates with how far each loss is above the lowest; see `ClientUpdate.excess`."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    best = min(finite, default=math.inf)
    excess = [loss - best if math.isfinite(loss) else math.inf for loss in finite]
    return [replace(update, excess=own) for update, own in zip(updates, excess, strict=True)]
