"""A round's clients spread over processes, each with a base of its own; the same results with any number of them."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any, NoReturn

import torch

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.errors import PolyRankError, WorkerError
from polyrank.core.state import ClientUpdate
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.training.batched.engine import Batched
from polyrank.training.engines import local_engine
from polyrank.training.profile import Clock
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.precision import DTYPES
from polyrank.training.work import Engine, Job, in_order, in_passes


@dataclass(frozen=True)
class Setup:
    """All that a process needs to make its engine.

    Args:
        model: the model section, resolved.
        task: what is learned.
        outputs: names of what the head gives.
        seed: of the run; the head is drawn from it.
        device: where it computes.
        training: the training section, resolved.
        threads: of torch, on a CPU.
        profile: whether its clock runs.
    """

    model: ModelConfig
    task: Task
    outputs: tuple[str, ...]
    seed: int
    device: str
    training: TrainingConfig
    threads: int
    profile: bool

    def engine(self) -> Sequential | Batched:
        """In the process that calls it."""
        dtype, attention = DTYPES[self.training.precision], self.training.attention
        base = load_base(self.model, self.outputs, seed=self.seed, dtype=dtype, attention=attention)
        resident = ResidentModel(base, torch.device(self.device))
        return local_engine(resident, self.task, self.training, Clock(resident.device, running=self.profile))


class Workers(Engine):
    """Engines in processes of their own.

    Jobs are put together into passes first, in a way that does not depend on the number of processes; the passes of
    most steps are handed out first, each to the process that is free. Updates come in the order of the jobs, whoever
    made them, and the server adds them up in the order of the clients' names.

    Args:
        setups: one per process.
        clock: where the processes' time is booked, as shares of the time that passes here.

    Raises:
        WorkerError: a process does not start.
    """

    def __init__(self, setups: Sequence[Setup], clock: Clock) -> None:
        self._options, self._clock = setups[0].training, clock
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._errors: list[IO[bytes]] = []
        for setup in setups:
            ours, theirs = socket.socketpair()
            errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "polyrank.training.workers", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    env=os.environ | {"OMP_NUM_THREADS": str(setup.threads)},
                )
            )
            theirs.close()
            self._errors.append(errors)
            connection = Connection(ours.detach())
            self._connections.append(connection)
            self._send(connection, setup, "while it started")
        for connection in self._connections:
            self._receive(connection, "while it started")

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job, in the order of the jobs.

        Raises:
            WorkerError: a process ended or failed; it and its clients are named.
        """
        clients = self._options.clients_per_pass if self._options.engine == "batched" else 1
        assert isinstance(clients, int)
        yield from in_order(jobs, self._arriving(in_passes(jobs, clients, self._options)))

    def _arriving(self, passes: list[list[Job]]) -> Iterator[ClientUpdate]:
        """The passes' updates as the processes finish them."""
        busy: dict[Connection, list[Job]] = {}
        with self._clock.shares() as book:
            while passes or busy:
                for connection in self._connections:
                    if passes and connection not in busy:
                        busy[connection] = passes.pop(0)
                        self._send(connection, busy[connection], _training(busy[connection]))
                ready = wait(list(busy))
                for connection in [one for one in busy if one in ready]:
                    updates, seconds = self._receive(connection, _training(busy[connection]))
                    del busy[connection]
                    book(seconds)
                    yield from updates

    def _send(self, connection: Connection, value: object, when: str) -> None:
        try:
            connection.send_bytes(pickle.dumps(value))  # plain pickles: torch's own would share memory by file handles
        except OSError:
            self._fail(connection, when)

    def _receive(self, connection: Connection, when: str) -> Any:  # Any: whatever the process was asked for
        try:
            kind, value = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            self._fail(connection, when)
        if kind == "done":
            return value
        self.close()
        if isinstance(value, PolyRankError):
            raise value
        raise WorkerError(f"a worker process failed {when}:\n{value}")

    def _fail(self, connection: Connection, when: str) -> NoReturn:
        message = self._ended(self._connections.index(connection), when)
        self.close()
        raise WorkerError(message) from None

    def _ended(self, index: int, when: str) -> str:
        code = self._processes[index].wait(timeout=30)
        self._errors[index].seek(0)
        said = self._errors[index].read().decode(errors="replace").strip().splitlines()
        why = "it was killed, perhaps for want of memory" if code == -9 else f"exit code {code}"
        last = f"; its last words: {said[-1]}" if said else ""
        return (
            f"worker process {index + 1} of {len(self._processes)} ended {when}: {why}{last}. Rounds that are saved "
            "are kept: continue with --resume, and --set training.workers=1 for one process"
        )

    def close(self) -> None:
        """End the processes; they end by themselves if this one does."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            if process.poll() is None:
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for errors in self._errors:
            errors.close()
        self._connections = []


def _training(jobs: Sequence[Job]) -> str:
    names = [job.client for job in jobs]
    return "while it trained " + ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def serve(connection: Connection) -> None:
    """A worker process: make the engine, then train what comes until nothing more does."""
    setup: Setup = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(setup.threads)
    engine: Sequential | Batched | None = None
    while True:
        try:
            if engine is None:
                engine = setup.engine()
                answer: tuple[str, object] = ("done", None)
            else:
                jobs = pickle.loads(connection.recv_bytes())
                answer = ("done", (list(engine.train(jobs)), engine.clock.take()))
        except EOFError:
            return
        except PolyRankError as error:
            answer = ("failed", error)
        except Exception:  # whatever it was, the main process says it
            answer = ("failed", traceback.format_exc())
        try:
            connection.send_bytes(pickle.dumps(answer))
        except OSError:
            return


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as _connection:
        serve(_connection)
