"""Real processes, which take seconds to start: most tests share three of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ModelError, WorkerError
from polyrank.core.state import ClientUpdate
from polyrank.tasks.task import Examples
from polyrank.training.profile import Clock
from polyrank.training.work import Job, Penalty, in_passes
from polyrank.training.workers import Setup, Workers
from tests.models import LABELS, TASK, Checkpoints, examples, random_adapter, resident

OPTIONS = TrainingConfig(
    engine="batched", clients_per_pass=2, workers=3, precision="float32", attention="eager", batch_size=4
)
SIZES = (3, 9, 6, 9, 5, 12, 1)
"""Examples per client: passes are not in the order of the clients, and the last is of one."""


def children() -> list[psutil.Process]:
    """Worker processes of this one, those that have ended left out."""
    found = psutil.Process().children()
    return [
        one for one in found if one.status() != psutil.STATUS_ZOMBIE and "polyrank.training.workers" in one.cmdline()
    ]


@pytest.fixture(scope="module")
def setup(checkpoint: Checkpoints) -> Setup:
    """A tiny BERT with its usual dropout, on one thread."""
    model = ModelConfig(name=str(checkpoint("bert")), head="model", dropout=0.1)
    return Setup(model, TASK, LABELS, seed=0, device="cpu", training=OPTIONS, threads=1, profile=True)


class Pool:
    """Three workers, started again if a test has ended them."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.clock = Clock(running=True)
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        if self._workers is None or not self._workers._connections:
            self._workers = Workers([self._setup] * 3, self.clock)
        return self._workers

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()


@pytest.fixture(scope="module")
def pool(setup: Setup) -> Iterator[Pool]:
    pool = Pool(setup)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def jobs(checkpoint: Checkpoints) -> list[Job]:
    """Unequal ranks and sizes; base changes and the regulariser travel too."""
    model = resident(checkpoint("bert"), head="model")
    change = Adapter(random_adapter(model, 9, rank=2, uneven=False).modules)
    work = []
    for i, size in enumerate(SIZES):
        rank = 1 + i % 3
        adapter = random_adapter(model, i, rank=rank, uneven=False)
        extra = {"base_change": change if i % 2 else None, "penalty": Penalty(1, 0.1) if rank > 1 else None}
        work.append(Job(f"c{i}", adapter, examples(model, size, seed=i), float(size), i, **extra))
    return work


@pytest.fixture(scope="module")
def expected(setup: Setup, jobs: list[Job]) -> list[ClientUpdate]:
    """What one process, this one, makes of the jobs on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    updates = list(setup.engine().train(jobs))
    torch.set_num_threads(threads)
    return updates


def same(found: list[ClientUpdate], expected: list[ClientUpdate]) -> bool:
    return [(u.client, u.weight, u.metrics) for u in found] == [
        (u.client, u.weight, u.metrics) for u in expected
    ] and all(one.adapter.identical(other.adapter) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_processes(
    pool: Pool, jobs: list[Job], expected: list[ClientUpdate], monkeypatch: pytest.MonkeyPatch, processes: int
):
    """Bit for bit those of one, in the order of the jobs, whatever that is."""
    workers = pool.workers
    monkeypatch.setattr(workers, "_connections", workers._connections[:processes])
    assert [update.client for update in expected] == [job.client for job in jobs]
    assert same(list(workers.train(jobs)), expected)
    backwards = list(workers.train(jobs[::-1]))
    assert [update.client for update in backwards] == [job.client for job in jobs][::-1]
    assert list(workers.train([])) == []


def test_every_client_makes_a_difference(expected: list[ClientUpdate]):
    """Or the comparison above would say little."""
    for i, one in enumerate(expected):
        assert one.adapter.first_not_finite() is None
        assert not any(one.adapter.identical(other.adapter) for other in expected[:i])


def test_the_time_of_the_processes_is_booked(pool: Pool, jobs: list[Job]):
    """As shares of the time that passes here, not added up over processes that work side by side."""
    workers = pool.workers
    pool.clock.take()
    start = time.perf_counter()
    list(workers.train(jobs))
    passed = time.perf_counter() - start
    booked = pool.clock.take()
    assert booked.keys() == {"arithmetic", "data", "optimiser"}
    assert all(seconds > 0 for seconds in booked.values())
    assert 0 < sum(booked.values()) <= passed


def test_errors_of_a_job_are_raised_here(
    pool: Pool, jobs: list[Job], expected: list[ClientUpdate], monkeypatch: pytest.MonkeyPatch
):
    """Ours as they are, others with their traceback. The processes, which are ended otherwise, could go on."""
    workers = pool.workers
    with monkeypatch.context() as patched:
        patched.setattr(workers, "close", lambda: None)
        wrong = Adapter({}, jobs[0].adapter.dense)
        with pytest.raises(AdapterError, match=r"does not fit .*query is missing"):
            list(workers.train([replace(jobs[0], adapter=wrong)]))
        beyond = Examples((np.array([2, 10**6, 3]),), np.array([0]), 0)
        with pytest.raises(WorkerError, match=r"failed while it trained c0, c1:\nTraceback(.|\n)*IndexError"):
            list(workers.train([replace(jobs[0], examples=beyond), replace(jobs[1], examples=beyond)]))
    assert same(list(workers.train(jobs)), expected)


def test_a_process_that_is_killed_is_named_with_its_clients(pool: Pool, jobs: list[Job]):
    """The second of three, stopped before it is asked and killed while the others are done; then all are ended."""
    workers = pool.workers
    processes = list(workers._processes)
    os.kill(processes[1].pid, signal.SIGSTOP)
    kill = threading.Timer(1, os.kill, (processes[1].pid, signal.SIGKILL))
    kill.start()
    with pytest.raises(WorkerError) as caught:
        list(workers.train(jobs))
    kill.join()
    names = ", ".join(job.client for job in in_passes(jobs, 2, OPTIONS)[1])
    assert f"worker process 2 of 3 ended while it trained {names}: it was killed" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert processes[1].poll() == -signal.SIGKILL
    assert all(process.poll() is not None for process in processes)
    workers.close()  # once more does no harm
    assert not children()


def test_a_model_that_is_missing_is_said_here(setup: Setup, tmp_path: Path):
    model = setup.model.model_copy(update={"name": str(tmp_path / "missing")})
    before = children()
    with pytest.raises(ModelError, match="missing"):
        Workers([replace(setup, model=model)], Clock())
    assert children() == before
