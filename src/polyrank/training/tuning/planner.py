"""How many clients to a pass, and how many processes: measured on the clients' own examples, not guessed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from polyrank.config import TrainingConfig
from polyrank.core.threads import allowed
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.batched.engine import Batched
from polyrank.training.batches import steps_per_epoch
from polyrank.training.dropout import UnbatchableError
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.saved import free_memory, most_saved
from polyrank.training.work import Engine, Work

log = logging.getLogger(__name__)

WIDTHS = (1, 2, 5, 10, 20, 50, 100)
STEPS = 2
"""Steps per client that are timed, of batches of typical lengths."""
REPEATS = 2
LONG_SECONDS = 1.0
"""A timing that takes so long is not repeated: what warming up adds is small beside it."""
WIDER = 1.08
"""Measured gain below which a wider pass is not worth the activations that it keeps; there the search ends, since a
trial takes that memory too."""
MEMORY_SHARE = 0.5
"""Of what is free, for what a pass keeps for its backward pass."""
GAIN = 1.15
"""Measured gain above which several processes are worth their memory; they slow one another down a little."""
STARTING_SECONDS = 10.0
"""What starting processes takes, about; a run of less than three times that starts none."""


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Args:
        engine: ``sequential`` or ``batched``.
        clients_per_pass: of the batched engine.
        workers: processes.
        reason: why clients cannot be batched; for the user.
        before: whether it was measured at an earlier start.
    """

    engine: str
    clients_per_pass: int
    workers: int
    reason: str = ""
    before: bool = False

    def __str__(self) -> str:
        how = "one client after another"
        if self.engine == "batched" and self.clients_per_pass > 1:
            how = f"{self.clients_per_pass} clients in one pass"
        how += f", {self.workers} processes" if self.workers > 1 else ""
        how += " (as measured before)" if self.before else ""
        return how + (f" (not batched: {self.reason})" if self.reason else "")


@dataclass(frozen=True)
class _Timing:
    engine: str
    width: int
    seconds: float
    """Per client and step."""


def choose(
    resident: ResidentModel,
    task: Task,
    examples: Mapping[str, Examples],
    options: TrainingConfig,
    works: Sequence[Work],
    *,
    rounds: int,
) -> Plan:
    """The fastest way to train such a cohort that fits into memory; what is not ``auto`` is taken as it is.

    Args:
        resident: the base.
        task: what is learned.
        examples: client -> what it learns from.
        options: of the training.
        works: a cohort's.
        rounds: how often such a cohort will be trained.
    """
    held = {work.client: examples[work.client] for work in works}
    samples = {client: own.subset(_typical(own.lengths, options)) for client, own in held.items()}
    steps = rounds * sum(options.epochs * steps_per_epoch(len(own), options.batch_size) for own in held.values())
    reference = Sequential(resident, task, samples, options)
    try:
        batched = None if options.engine == "sequential" else Batched(resident, task, samples, options, 1)
        return _choose(reference, batched, works, steps)
    except UnbatchableError as error:  # of the model, or of a step that was tried
        log.warning("clients are trained one after another: %s", error)
        return replace(_choose(reference, None, works, steps), reason=str(error))


def _choose(reference: Sequential, batched: Batched | None, works: Sequence[Work], steps: int) -> Plan:
    """The plan for so many steps, where clients are batched by ``batched``, or by nothing."""
    resident, options = reference.resident, reference.options
    wanted = None if options.workers == "auto" else options.workers
    settled = batched is None or (options.engine == "batched" and options.clients_per_pass != "auto")
    if settled and wanted is not None:
        width = options.clients_per_pass if batched is not None and options.clients_per_pass != "auto" else 1
        return Plan("sequential" if batched is None else "batched", width, wanted)
    widest = len(works) if batched is None else _most_that_fit(batched, works[0])
    cores = min(torch.get_num_threads(), allowed())
    workers = wanted or 1
    sharing = -(-workers // torch.cuda.device_count()) if resident.device.type == "cuda" else workers
    with _threads(max(cores // workers, 1)):
        best = _fastest(reference, batched, works, min(widest // sharing, -(-len(works) // workers)))
    worthwhile = steps * best.seconds > 3 * STARTING_SECONDS and len(works) >= cores > 1
    if wanted is None and resident.device.type == "cuda":
        workers = min(torch.cuda.device_count(), len(works)) if worthwhile else 1
    elif wanted is None and worthwhile:
        with _threads(1):
            alone = _fastest(reference, batched, works, min(best.width, widest // cores, len(works) // cores))
        log.info("%d processes of one thread: %.2f times as fast", cores, cores * best.seconds / alone.seconds)
        if cores * best.seconds > GAIN * alone.seconds:
            best, workers = alone, cores
    return Plan(best.engine, best.width, workers)


def _fastest(reference: Sequential, batched: Batched | None, works: Sequence[Work], widest: int) -> _Timing:
    """The widest of the open widths up to which each was faster than the one before by `WIDER`.

    A pass of one client is as fast as the sequential engine or faster.
    """
    if batched is None:
        return _Timing("sequential", 1, _seconds(reference, works[:1]))
    fixed = reference.options.clients_per_pass
    widths = sorted({width for width in (*WIDTHS, len(works)) if width <= widest}) or [1]
    best: _Timing | None = None
    for width in [min(fixed, len(works))] if fixed != "auto" else widths:
        batched.clients_per_pass = width
        timing = _Timing("batched", width, _seconds(batched, works[:width]))
        log.info("%d clients in one pass: %.1f ms per client and step", width, 1000 * timing.seconds)
        if best is not None and best.seconds < WIDER * timing.seconds:
            break
        best = timing
    assert best is not None  # there is always a width of 1
    return best


def _seconds(engine: Engine, works: Sequence[Work]) -> float:
    """Per client and step: the shortest of some timings, the first of which warms up."""
    best = math.inf
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        steps = sum(int(outcome.metrics["steps"]) for outcome in engine.run(works))
        seconds = time.perf_counter() - start  # results are copied to the CPU, so nothing is pending
        best = min(best, seconds / steps)
        if seconds > LONG_SECONDS:
            break
    return best


def _typical(lengths: np.ndarray, options: TrainingConfig) -> np.ndarray:
    """Rows of a few batches that are as long as the client's examples are, at even distances by length."""
    count = min(len(lengths), STEPS * options.batch_size)
    by_length = np.argsort(lengths, kind="stable")
    places = np.linspace(0, len(lengths) - 1, count).round().astype(np.int64)
    return np.asarray(by_length[places])


def _most_that_fit(engine: Batched, work: Work) -> int:
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
