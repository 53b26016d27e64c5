"""Clients that clip and noise their updates before anybody else sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from polyrank.training.work import Engine, Outcome, Work


@dataclass(frozen=True, eq=False)
class Guarded(Engine):
    """An engine whose outcomes leave it as their works ask for it.

    Args:
        inner: does the work.
    """

    inner: Engine

    @property
    def wire(self) -> str:  # type: ignore[override]  # that of the inner engine
        """It is that of the inner engine."""
        return self.inner.wire

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """See `Engine`."""
        asked = {work.client: work for work in works}
        for outcome in self.inner.run(works):
            yield guarded(outcome, asked[outcome.client])

    def close(self) -> None:
        """See `Engine`."""
        self.inner.close()


def guarded(outcome: Outcome, work: Work) -> Outcome:
    """The outcome as it may be sent: clipped and noised, and without what was measured on the client's own data."""
    guard = work.guard
    if guard is None:
        return outcome
    update = outcome.update(work)
    if update is not None and (bad := update.adapter.first_not_finite()):  # it would be seen through any noise
        outcome = replace(outcome, trained=None, problem=f"NaN or infinite values in {bad} after local training")
    if not guard.metrics:
        outcome = replace(outcome, metrics={}, scores={})
    if outcome.trained is None:
        return outcome
    return replace(outcome, trained=guard.hide(outcome.trained, work.adapter, (work.client, work.round)))
