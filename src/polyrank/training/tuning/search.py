"""From all ways to train a cohort to the fastest that fits into memory, by few trials."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from polyrank.config import TrainingConfig
from polyrank.core import limits
from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.engine import Batched
from polyrank.training.dropout import UnbatchableError
from polyrank.training.lanes import Lanes, SideBySide
from polyrank.training.local import Local
from polyrank.training.tuning.forms import Bases, Form
from polyrank.training.tuning.saved import free_memory, most_saved
from polyrank.training.tuning.trials import Trials, Way
from polyrank.training.work import Engine, Work

log = logging.getLogger(__name__)

WIDTHS = (1, 2, 5, 10, 20, 50, 100)
STEPS = 2
"""Steps per client that are timed, of batches of typical lengths."""
LONG = 0.25
"""Where one takes so many seconds, one is timed."""
FIRST_SECONDS = 0.3
"""Forms are compared in the widest pass that takes no longer: short steps in a wide one, since there they differ."""
WIDER = 1.04
"""Measured gain below which a wider pass is not worth the activations that it keeps, nor a likely form another one's
place; there the search ends, since a trial takes memory and time."""
NEAR = 1.3
"""A form so near the best in one pass is tried in wider ones and in lanes too."""
MEMORY_SHARE = 0.5
"""Of what is free, for what a pass keeps for its backward pass."""
GAIN = 1.1
"""Measured gain above which several processes are worth their memory; they slow one another down a little."""
STARTING_SECONDS = 10.0
"""What starting processes takes, about; a run of less than three times that starts none."""
BUDGET = (2.5, 0.05)
"""What trials may take before each way is timed once only: the larger of so many seconds and such a share of all."""


@dataclass(frozen=True)
class Settled:
    """What is no matter of measuring; None where it is.

    Args:
        width: clients to a pass.
        lanes: passes at a time.
        workers: processes.
    """

    width: int | None
    lanes: int | None
    workers: int | None


def cores(workers: int) -> int:
    """How many cores each of so many processes has."""
    return max(min(torch.get_num_threads(), limits.cores()) // workers, 1)


def room_for_lanes(works: Sequence[Work], options: TrainingConfig, *, on_gpu: bool) -> bool:
    """Whether there can be several: on a CPU, with cores for them, and with more than one client to train."""
    workers = 1 if options.workers == "auto" else options.workers
    return not on_gpu and min(cores(workers), len(works) // workers) > 1


class Search:
    """The search of one engine's fastest way.

    Args:
        bases: the forms.
        make: a base, and how many of a client's steps are timed -> the engine on it.
        works: a cohort's.
        steps: of the whole training, all clients' together.
        settled: what is not searched for.
    """

    def __init__(
        self,
        bases: Bases,
        make: Callable[[ResidentModel, int], Local],
        works: Sequence[Work],
        steps: int,
        settled: Settled,
    ) -> None:
        self.bases, self.make, self.works, self.steps, self.settled = bases, make, works, steps, settled
        self._time(STEPS)
        self.on_gpu = next(iter(self.engines.values())).resident.device.type == "cuda"
        self.cores = cores(settled.workers or 1)
        self._beside: tuple[tuple[str, int], SideBySide] | None = None

    def best(self) -> tuple[Way, int]:
        """The fastest way, and the number of processes."""
        workers, lanes = self.settled.workers or 1, self.settled.lanes or 1
        forms = self.bases.forms
        self.fitting, step = self._looked_at()
        if step > LONG:
            self._time(1)
        trials = Trials(self._run, max(BUDGET[0], BUDGET[1] * self.steps * step))
        first = max(int(FIRST_SECONDS / step), 1)
        best = self._fastest(trials, forms, lanes, workers, first)
        if self.settled.lanes is None:
            best = self._more_lanes(trials, best, workers)
        took = trials.best[best]
        if self.settled.workers is None and self.steps * took > 3 * STARTING_SECONDS:
            best, workers = self._more_processes(trials, best)
        log.info("trials took %.1f s; chosen: %s", trials.spent, best)
        self._let_go()
        return best, workers

    def _time(self, steps: int) -> None:
        """So many of a client's steps from here on."""
        self.timed = steps
        self.engines = {form.precision: self.make(self.bases.base(form), steps) for form in self.bases.forms}

    def _more_lanes(self, trials: Trials, best: Way, workers: int) -> Way:
        """Twice as many as long as that pays, each with its share of the cores."""
        lanes = 2
        passes = len(self.works) // (workers * (self.settled.width or 1))
        while lanes <= min(self.cores, passes):
            try:
                more = self._fastest(trials, self._near(trials, best), lanes, workers, best.width)
            except UnbatchableError as error:
                log.info("one pass at a time: %s", error)
                break
            here, beside = trials.compare([best, more])  # once more, in turn: much hangs on it
            gain = here / beside
            log.info("%d passes at a time: %.2f times as fast", lanes, gain)
            if gain < WIDER:
                break
            best, lanes = more, 2 * lanes
        return best

    def _more_processes(self, trials: Trials, best: Way) -> tuple[Way, int]:
        """One per GPU, or one per core where one pass at a time on one of them is so fast that it pays."""
        if self.on_gpu:
            return best, min(torch.cuda.device_count(), len(self.works))
        if best.lanes > 1 or len(self.works) < self.cores or self.cores == 1:
            return best, 1
        alone = self._fastest(trials, self._near(trials, best), 1, self.cores, best.width)
        gain = self.cores * trials.best[best] / trials.best[alone]
        log.info("%d processes of one thread: %.2f times as fast", self.cores, gain)
        return (alone, self.cores) if gain > GAIN else (best, 1)

    def _near(self, trials: Trials, best: Way) -> list[Form]:
        if trials.over:
            return [best.form]
        shortest = {form: min((s for way, s in trials.best.items() if way.form == form)) for form in self.bases.forms}
        return [form for form in self.bases.forms if shortest[form] <= NEAR * trials.best[best]]

    def _fastest(self, trials: Trials, forms: Sequence[Form], lanes: int, workers: int, first: int) -> Way:
        """Compare forms in a pass that all of them have, about `first` wide; then find the width of each that is near.

        Args:
            trials: where they are timed.
            forms: at least one.
            lanes: passes at a time in a process.
            workers: processes at a time.
            first: clients to a pass.
        """
        threads = max(self.cores * (self.settled.workers or 1) // (workers * lanes), 1)
        widths = {form: self._widths(form, lanes, workers) for form in forms}
        common = min(max((w for w in own if w <= first), default=own[0]) for own in widths.values())
        starts = [Way(form, common, threads, lanes) for form in widths]
        times = trials.compare(starts)
        near = [start for start, seconds in zip(starts, times, strict=True) if seconds <= NEAR * min(times)]
        found: list[Way] = []
        for start in sorted(near, key=lambda way: trials.best[way]):
            if not (found and trials.over):
                found.append(_climb(trials, start, widths[start.form]))
        least = min(trials.best[way] for way in found)
        found = [way for way in found if trials.best[way] <= NEAR * least]
        times = trials.compare(found) if len(found) > 1 else [least]
        likely = sorted(zip(found, times, strict=True), key=lambda pair: forms.index(pair[0].form))
        return next(way for way, seconds in likely if seconds <= WIDER * min(times))

    def _widths(self, form: Form, lanes: int, workers: int) -> list[int]:
        """Clients to a pass that fit, and leave no lane of any process without one."""
        at_a_time = lanes * workers
        if self.settled.width is not None:
            return [min(self.settled.width, len(self.works))]
        sharing = -(-at_a_time // torch.cuda.device_count()) if self.on_gpu else at_a_time
        widest = min(self.fitting[form] // sharing, -(-len(self.works) // at_a_time))
        evenly = -(-len(self.works) // lanes)
        return sorted({width for width in (*WIDTHS, evenly) if width <= widest}) or [1]

    def _looked_at(self) -> tuple[dict[Form, int], float]:
        """How many clients fit into memory in each form, and the seconds of one client's step in the fastest of them.

        Each form has been warmed up then.
        """
        fitting, least = {}, float("inf")
        with _threads(self.cores):
            for form in self.bases.forms:
                engine = self._engine(form)
                start = time.perf_counter()
                counted = isinstance(engine, Batched) and self.settled.width is None
                fitting[form] = most_that_fit(engine, self.works[0]) if counted else 1
                steps = trained(engine, self.works[:1])
                least = min(least, (time.perf_counter() - start) / ((1 + counted) * steps))
        return fitting, least

    def _engine(self, form: Form) -> Local:
        self.bases.base(form)  # which its engine holds
        return self.engines[form.precision]

    def _run(self, way: Way) -> float:
        """Steps of a cohort that were done, of all clients together; fewer count where lanes would wait at its end."""
        works = self.works[: way.width * way.lanes]
        if way.lanes == 1:
            engine = self._engine(way.form)
            engine.clients_per_pass = way.width
            with _threads(way.threads):
                return trained(engine, works)
        beside = self._side_by_side(way)
        for one in beside.engines:
            one.clients_per_pass = way.width
        passes = -(-len(self.works) // way.width)
        return trained(beside, works) * passes / (-(-passes // way.lanes) * way.lanes)

    def _side_by_side(self, way: Way) -> SideBySide:
        """The engine in lanes on twins of the base, which are kept until another is asked for."""
        asked = (way.form.precision, way.lanes)
        if self._beside is None or self._beside[0] != asked:
            self._let_go()
            with _threads(way.threads * way.lanes):
                lanes = Lanes(self.bases.base(way.form), way.lanes)
            made = [self.make(resident, self.timed) for resident in lanes.residents]
            self._beside = asked, SideBySide(lanes, made, made[0].clock)
        for resident in self._beside[1].lanes.residents:
            resident.set_attention(way.form.attention)
        return self._beside[1]

    def _let_go(self) -> None:
        if self._beside is not None:
            self._beside[1].close()
            self._beside = None


def _climb(trials: Trials, start: Way, widths: Sequence[int]) -> Way:
    """Wider as long as each is faster by `WIDER`; where the first is not, narrower as long as nothing is lost by it.

    It ends where another form, tried before, is far ahead in a pass as wide.
    """
    at = best = widths.index(start.width)
    ways = [replace(start, width=width) for width in widths]

    def far_behind() -> bool:
        others = (seconds for way, seconds in trials.best.items() if replace(way, form=start.form) == ways[best])
        return trials.best[ways[best]] > NEAR * min(others)

    while best + 1 < len(ways) and not trials.over and not far_behind():
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
