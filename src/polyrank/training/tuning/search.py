"""From all ways to train a cohort to the fastest that fits into memory, by few trials."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from polyrank.core.threads import allowed
from polyrank.training.batched.engine import Batched
from polyrank.training.local import Local
from polyrank.training.tuning.forms import Bases, Form
from polyrank.training.tuning.saved import free_memory, most_saved
from polyrank.training.tuning.trials import Trials, Way
from polyrank.training.work import Engine, Work

log = logging.getLogger(__name__)

WIDTHS = (1, 2, 5, 10, 20, 50, 100)
FIRST_SECONDS = 0.3
"""Forms are compared in the widest pass that takes no longer: short steps in a wide one, since there they differ."""
WIDER = 1.04
"""Measured gain below which a wider pass is not worth the activations that it keeps, nor a likely form another one's
place; there the search ends, since a trial takes memory and time."""
NEAR = 1.3
"""A form so near the best in one pass is tried in others too."""
MEMORY_SHARE = 0.5
"""Of what is free, for what a pass keeps for its backward pass."""
GAIN = 1.1
"""Measured gain above which several processes are worth their memory; they slow one another down a little."""
STARTING_SECONDS = 10.0
"""What starting processes takes, about; a run of less than three times that starts none."""
BUDGET = (4.0, 0.05)
"""What trials may take before nothing is repeated: the larger of so many seconds and such a share of the training."""


class Search:
    """The search of one engine's fastest way.

    Args:
        bases: the forms.
        engines: precision -> the engine on that base.
        works: a cohort's.
        steps: of the whole training, all clients' together.
        width: clients to a pass, if that is settled.
        workers: processes, if that is settled.
    """

    def __init__(
        self,
        bases: Bases,
        engines: dict[str, Local],
        works: Sequence[Work],
        steps: int,
        *,
        width: int | None,
        workers: int | None,
    ) -> None:
        self.bases, self.engines, self.works, self.steps = bases, engines, works, steps
        self.width, self.workers = width, workers
        self.cores = min(torch.get_num_threads(), allowed())
        self.on_gpu = next(iter(engines.values())).resident.device.type == "cuda"

    def best(self) -> tuple[Way, int]:
        """The fastest way, and the number of processes."""
        workers = self.workers or 1
        threads = max(self.cores // workers, 1)
        forms = self.bases.forms
        fitting, step = self._looked_at(threads)
        trials = Trials(self._run, max(BUDGET[0], BUDGET[1] * self.steps * step))
        sharing = -(-workers // torch.cuda.device_count()) if self.on_gpu else workers

        def widths(form: Form, processes: int, share: int) -> list[int]:
            if self.width is not None:
                return [min(self.width, len(self.works))]
            widest = min(fitting[form] // share, -(-len(self.works) // processes))
            return sorted({width for width in (*WIDTHS, len(self.works)) if width <= widest}) or [1]

        first = max(int(FIRST_SECONDS / step), 1)
        best = _fastest(trials, {form: widths(form, workers, sharing) for form in forms}, threads, first)
        took = trials.best[best]
        if self.workers is None and self.steps * took > 3 * STARTING_SECONDS and len(self.works) >= self.cores > 1:
            if self.on_gpu:
                return best, min(torch.cuda.device_count(), len(self.works))
            shortest = {form: min(s for way, s in trials.best.items() if way.form == form) for form in forms}
            near = [form for form in forms if shortest[form] <= NEAR * took]
            open_widths = {form: widths(form, self.cores, self.cores) for form in near}
            alone = _fastest(trials, open_widths, 1, best.width)
            gain = self.cores * took / trials.best[alone]
            log.info("%d processes of one thread: %.2f times as fast", self.cores, gain)
            if gain > GAIN:
                best, workers = alone, self.cores
        log.info("trials took %.1f s; chosen: %s", trials.spent, best)
        return best, workers

    def _looked_at(self, threads: int) -> tuple[dict[Form, int], float]:
        """How many clients fit into memory in each form, and the seconds of one client's step in the fastest of them.

        Each form has been warmed up then.
        """
        fitting, least = {}, float("inf")
        with _threads(threads):
            for form in self.bases.forms:
                engine = self._engine(form)
                start = time.perf_counter()
                counted = isinstance(engine, Batched) and self.width is None
                fitting[form] = most_that_fit(engine, self.works[0]) if counted else 1
                steps = trained(engine, self.works[:1])
                least = min(least, (time.perf_counter() - start) / ((1 + counted) * steps))
        return fitting, least

    def _engine(self, form: Form) -> Local:
        self.bases.base(form)  # which its engine holds
        return self.engines[form.precision]

    def _run(self, way: Way) -> int:
        engine = self._engine(way.form)
        if isinstance(engine, Batched):
            engine.clients_per_pass = way.width
        with _threads(way.threads):
            return trained(engine, self.works[: way.width])


def _fastest(trials: Trials, widths: dict[Form, list[int]], threads: int, first: int) -> Way:
    """Compare forms in a pass that all of them have, about `first` wide; then find the width of each that is near."""
    common = min(max((w for w in own if w <= first), default=own[0]) for own in widths.values())
    starts = [Way(form, common, threads) for form in widths]
    times = trials.compare(starts)
    found = [
        _climb(trials, start, widths[start.form])
        for start, seconds in zip(starts, times, strict=True)
        if seconds <= NEAR * min(times)
    ]
    times = trials.compare(found) if len(found) > 1 else [trials.best[found[0]]]
    return next(way for way, seconds in zip(found, times, strict=True) if seconds <= WIDER * min(times))


def _climb(trials: Trials, start: Way, widths: Sequence[int]) -> Way:
    """Wider as long as each is faster by `WIDER`; where the first is not, narrower as long as nothing is lost by it."""
    at = best = widths.index(start.width)
    ways = [Way(start.form, width, start.threads) for width in widths]
    while best + 1 < len(ways):
        here, wider = trials.compare(ways[best : best + 2])
        if here < WIDER * wider:
            break
        best += 1
    while 0 < best <= at:
        narrower, here = trials.compare(ways[best - 1 : best + 1])
        if narrower > WIDER * here:
            break
        best -= 1
    return ways[best]


def trained(engine: Engine, works: Sequence[Work]) -> int:
    """Train; how many steps that were, all clients' together."""
    return sum(int(outcome.metrics["steps"]) for outcome in engine.run(works))


def most_that_fit(engine: Local, work: Work) -> int:
    """Clients whose saved activations fit into the free memory, by those of one; at least 1.

    Where layers are recomputed, one at a time keeps all of its activations: the last one does so here all the time,
    for what is saved while a layer is recomputed is not seen.
    """
    engine.whole = 1
    largest = most_saved(engine.resident.model, lambda: list(engine.run([work])))
    engine.whole = 0
    return max(int(MEMORY_SHARE * free_memory(engine.resident.device) / max(largest, 1)), 1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
