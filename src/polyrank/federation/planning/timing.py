"""How long a run will compute, by a few steps that are timed in the way that was chosen for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from polyrank.config.sections import NO_CLUSTER
from polyrank.federation.round import cohort, personalise, read_outs
from polyrank.federation.server import Server
from polyrank.tasks.metric import is_due
from polyrank.tasks.task import Examples
from polyrank.training.batches import steps_per_epoch
from polyrank.training.engines import engine_in_lanes
from polyrank.training.evaluate import tallies
from polyrank.training.profile import Clock
from polyrank.training.tuning.planner import typical
from polyrank.training.tuning.search import trained

LONG = 5.0
"""Seconds of a first trial, which also warms up, after which there is no second one."""
MOST_MEASURED = 512
"""Test examples that are read for a trial."""


@dataclass(frozen=True)
class Seconds:
    """What a run computes from where it stands to its end.

    Args:
        training: of all rounds.
        measuring: of the global model, and of what each rank group is sent.
        scoring: of every client before the first round, where the rank policy asks for it.
    """

    training: float
    measuring: float
    scoring: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.training + self.measuring + self.scoring


def seconds(server: Server, played: int = 0) -> Seconds | None:
    """Time a pass of the first cohort and a part of the test set; what was trained is thrown away.

    Aggregation, diagnostics, saving and samples are not in it.

    Args:
        server: of the run.
        played: rounds that are done.

    Returns:
        None where the nodes of a cluster train, which only a round shows.
    """
    config, site = server.config, server.site
    if config.training.cluster != NO_CLUSTER:
        return None
    step, token = _of_a_step(server), _of_a_token(server)
    rounds, evaluation = config.federation.rounds, config.evaluation
    to_come = range(played + 1, rounds + 1)
    steps = sum(_steps(server, server.cohort(number)) for number in to_come)
    ranks = len(set(server.initial_state().ranks.values())) if evaluation.rank_groups else 0
    measured = sum(is_due(number, evaluation.every, rounds) for number in to_come) + ranks
    measured += site.task.writes and played == 0
    scoring = 0.0
    if played == 0 and server.policy.scores_clients:
        scoring = step * _steps(server, server.clients)
        scoring += token * len(server.clients) * _tokens(site.validation or site.test)
    return Seconds(step * steps, token * measured * _tokens(site.test), scoring)


def _of_a_step(server: Server) -> float:
    """Seconds of one client's step, where as many are computed side by side as the engine does."""
    config, site = server.config, server.site
    training, lanes = config.training, site.lanes
    width = training.clients_per_pass if training.engine == "batched" else 1
    assert isinstance(width, int)
    assert isinstance(training.workers, int)
    names = cohort(server.clients, config.federation.participation, config.federation.seed, 1)[: width * lanes.count]
    samples = {name: site.examples[name].subset(typical(site.examples[name].lengths, training)) for name in names}
    once = training.model_copy(update={"epochs": 1})
    engine = engine_in_lanes(lanes, site.task, samples, once, Clock(site.resident.device))
    state = server.initial_state()
    sent = read_outs(state, names, server.method)
    works = [server.work(state, name, 1, personalise(state, name, own)) for name, own in sent.items()]
    alone = site.resident.device.type == "cuda"  # each process has a GPU of its own; on a CPU lanes stand for them
    return _timed(lambda: trained(engine, works)) / (training.workers if alone else 1)


def _of_a_token(server: Server) -> float:
    """Seconds of a token of the test set."""
    site = server.site
    order = np.argsort(site.test.lengths, kind="stable")
    places = np.linspace(0, len(order) - 1, min(len(order), MOST_MEASURED)).round().astype(np.int64)
    part = site.test.subset(order[places])
    adapter = server.initial_state().adapter
    size = server.config.evaluation.batch_size

    def measure() -> int:
        tallies(site.lanes, site.task, [part], size, lambda base: base.install(adapter))
        return _tokens(part)

    return _timed(measure)


def _timed(work: Callable[[], int]) -> float:
    """Seconds of a unit of work that says how many units it did; the shorter of two times, unless it takes long."""
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        units = work()
        took = time.perf_counter() - start
        best = min(best, took / units)
        if took > LONG:
            break
    return best


def _steps(server: Server, clients: Iterable[str]) -> int:
    training = server.config.training
    sizes = (len(server.site.examples[client]) for client in clients)
    return sum(training.epochs * steps_per_epoch(size, training.batch_size) for size in sizes)


def _tokens(examples: Examples) -> int:
    return int(examples.lengths.sum())
