"""What each client's model is worth to the server, for methods that weigh clients by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate
from polyrank.federation.site import Site
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


def with_excess(updates: Sequence[ClientUpdate], losses: Sequence[float]) -> list[ClientUpdate]:
    """The updates with how far each loss is above the lowest; see `ClientUpdate.excess`."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    best = min(finite, default=math.inf)
    excess = [loss - best if math.isfinite(loss) else math.inf for loss in finite]
    return [replace(update, excess=own) for update, own in zip(updates, excess, strict=True)]
