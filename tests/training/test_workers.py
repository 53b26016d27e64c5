"""Real processes, which take seconds to start: most tests share three of them."""

from __future__ import annotations

import math
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
from polyrank.core import codec
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, CodecError, ModelError, WorkerError
from polyrank.tasks.task import Examples
from polyrank.training.profile import Clock
from polyrank.training.remote import Done, Pass, Setup
from polyrank.training.work import Outcome, Work, in_passes
from polyrank.training.workers import Workers
from tests.models import LABELS, TASK, Checkpoints, resident
from tests.training import uneven
from tests.training.uneven import equal, on_one_thread, same

OPTIONS = TrainingConfig(
    engine="batched", clients_per_pass=2, lanes=1, workers=3, precision="float32", attention="eager", batch_size=4
)
BEYOND = ("x0", "x1")
"""Clients whose texts have a token that the model does not know."""


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
    loaded = resident(checkpoint("bert"), head="model")
    held = uneven.held(loaded)
    held |= dict.fromkeys(BEYOND, Examples((np.array([2, 10**6, 3]),), np.array([0]), 0))
    return Setup(model, TASK, held, LABELS, seed=0, device="cpu", training=OPTIONS, threads=1, profile=True)


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
def works(checkpoint: Checkpoints) -> list[Work]:
    return uneven.works(resident(checkpoint("bert"), head="model"))


@pytest.fixture(scope="module")
def expected(setup: Setup, works: list[Work]) -> list[Outcome]:
    return on_one_thread(setup, works)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_processes(
    pool: Pool, works: list[Work], expected: list[Outcome], monkeypatch: pytest.MonkeyPatch, processes: int
):
    """Bit for bit those of one, in the order of the works, whatever that is."""
    workers = pool.workers
    monkeypatch.setattr(workers, "_connections", workers._connections[:processes])
    assert [outcome.client for outcome in expected] == [work.client for work in works]
    assert same(list(workers.run(works)), expected)
    backwards = list(workers.run(works[::-1]))
    assert [outcome.client for outcome in backwards] == [work.client for work in works][::-1]
    assert list(workers.run([])) == []


def test_only_what_is_trained_comes_back(pool: Pool, works: list[Work]):
    """Values that are not finite too, as they are."""
    first, second = works[:2]
    nan = first.adapter.map(lambda tensor: torch.full_like(tensor, math.nan))
    asked = [replace(first, adapter=nan), replace(second, trains=frozenset({"b"}))]
    broken, good = pool.workers.run(asked)
    assert math.isnan(broken.metrics["loss"])
    assert broken.update(asked[0]).adapter.first_not_finite() is not None
    assert good.trained.keys() == second.adapter.parts({"b"}).keys()
    assert equal(good.update(asked[1]).adapter.parts({"a", "head"}), second.adapter.parts({"a", "head"}))
    assert good.update(asked[1]).adapter.first_not_finite() is None


def test_nothing_is_pickled_on_the_way(pool: Pool, works: list[Work], monkeypatch: pytest.MonkeyPatch):
    """Works and outcomes go as a header and safetensors; only what a process starts with is a pickle of our own."""
    workers, seen = pool.workers, []
    for connection in workers._connections:
        there, back = connection.send_bytes, connection.recv_bytes

        def send(data: bytes, there=there) -> None:
            seen.append(data)
            there(data)

        def receive(back=back) -> bytes:
            seen.append(back())
            return seen[-1]

        monkeypatch.setattr(connection, "send_bytes", send)
        monkeypatch.setattr(connection, "recv_bytes", receive)
    assert len(list(workers.run(works))) == len(works)
    assert len(seen) == 2 * len(in_passes(works, 2, workers._setup.examples, OPTIONS.batch_size))
    assert {data[:4] for data in seen} == {codec.MAGIC}
    assert [list(codec.loads(Pass, data).works) for data in seen if b"works" in data[:20]]


def test_an_error_is_its_name_and_its_message():
    """An answer with anything else in it is none."""
    sent = Done(error="AdapterError", message="a tensor is missing\nin c1")
    found = codec.loads(Done, codec.dumps(sent))
    assert (found.error, found.message, found.outcomes, found.seconds) == (sent.error, sent.message, {}, {})
    with pytest.raises(CodecError, match="lacks nothing, and more in it is unknown"):
        codec.loads(Done, codec.pack(codec.encode(sent)[0] | {"more": 1}, {}))
    with pytest.raises(CodecError, match="are no packed tensors"):
        codec.loads(Done, b"\x80\x04\x95 a pickle")


def test_every_client_makes_a_difference(works: list[Work], expected: list[Outcome]):
    """Or the comparison above would say little."""
    found = [outcome.update(work).adapter for outcome, work in zip(expected, works, strict=True)]
    for i, one in enumerate(found):
        assert one.first_not_finite() is None
        assert not any(one.identical(other) for other in found[:i])


def test_the_time_of_the_processes_is_booked(pool: Pool, works: list[Work]):
    """As shares of the time that passes here, not added up over processes that work side by side."""
    workers = pool.workers
    pool.clock.take()
    start = time.perf_counter()
    list(workers.run(works))
    passed = time.perf_counter() - start
    booked = pool.clock.take()
    assert booked.keys() == {"arithmetic", "data", "optimiser"}
    assert all(seconds > 0 for seconds in booked.values())
    assert 0 < sum(booked.values()) <= passed


def test_errors_of_a_work_are_raised_here(
    pool: Pool, works: list[Work], expected: list[Outcome], monkeypatch: pytest.MonkeyPatch
):
    """Ours as they are, others with their traceback. The processes, which are ended otherwise, could go on."""
    workers = pool.workers
    with monkeypatch.context() as patched:
        patched.setattr(workers, "close", lambda: None)
        wrong = Adapter({}, works[0].adapter.dense)
        with pytest.raises(AdapterError, match=r"does not fit .*query is missing") as caught:
            list(workers.run([replace(works[0], adapter=wrong)]))
        assert type(caught.value) is AdapterError
        with pytest.raises(WorkerError, match=r"failed while it trained x0, x1:\nTraceback(.|\n)*IndexError"):
            list(workers.run([replace(work, client=name) for work, name in zip(works, BEYOND, strict=False)]))
    assert same(list(workers.run(works)), expected)


def test_a_process_that_is_killed_is_named_with_its_clients(pool: Pool, works: list[Work]):
    """The second of three, stopped before it is asked and killed while the others are done; then all are ended."""
    workers = pool.workers
    processes = list(workers._processes)
    os.kill(processes[1].pid, signal.SIGSTOP)
    kill = threading.Timer(1, os.kill, (processes[1].pid, signal.SIGKILL))
    kill.start()
    with pytest.raises(WorkerError) as caught:
        list(workers.run(works))
    kill.join()
    passes = in_passes(works, 2, workers._setup.examples, OPTIONS.batch_size)
    names = ", ".join(work.client for work in passes[1])
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
