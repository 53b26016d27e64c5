"""A round's clients spread over processes, each with a base of its own; the same results with any number of them."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import IO, NoReturn

import torch

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core import codec
from polyrank.core.errors import PolyRankError, WorkerError, named
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.engines import engine_in_lanes
from polyrank.training.lanes import Lanes, SideBySide
from polyrank.training.local import Local
from polyrank.training.profile import Clock
from polyrank.training.tuning.forms import DTYPES
from polyrank.training.work import Engine, Outcome, Work, in_order, in_passes


@dataclass(frozen=True)
class Setup:
    """All that a process needs to make its engine.

    Args:
        model: the model section, resolved.
        task: what is learned.
        examples: client -> what it learns from.
        outputs: names of what the head gives.
        seed: of the run; the head is drawn from it.
        device: where it computes.
        training: the training section, resolved.
        threads: of torch, on a CPU.
        profile: whether its clock runs.
    """

    model: ModelConfig
    task: Task
    examples: Mapping[str, Examples]
    outputs: tuple[str, ...]
    seed: int
    device: str
    training: TrainingConfig
    threads: int
    profile: bool

    def engine(self) -> Local | SideBySide:
        """The engine, in the process that calls this."""
        dtype, attention = DTYPES[self.training.precision], self.training.attention
        base = load_base(self.model, self.outputs, seed=self.seed, dtype=dtype, attention=attention)
        resident = ResidentModel(base, torch.device(self.device))
        lanes, clock = Lanes(resident, int(self.training.lanes)), Clock(resident.device, running=self.profile)
        return engine_in_lanes(lanes, self.task, self.examples, self.training, clock)


@dataclass(frozen=True, eq=False)
class Pass:
    """What a process is asked to do together: client -> its work."""

    works: Mapping[str, Work]


@dataclass(frozen=True, eq=False)
class Done:
    """What a process answers.

    Args:
        outcomes: client -> what became of its work.
        seconds: that its clock booked, by phase.
        error: the name of what it failed with; empty if it did not.
        message: of that error.
    """

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    message: str = ""


class Workers(Engine):
    """Engines in processes of their own.

    Works are put together into passes first, in a way that does not depend on the number of processes; the passes of
    most steps are handed out first, each to the process that is free. Outcomes come in the order of the works, whoever
    made them, and the server adds them up in the order of the clients' names.

    Args:
        setups: one per process.
        clock: where the processes' time is booked, as shares of the time that passes here.

    Raises:
        WorkerError: a process does not start.
    """

    def __init__(self, setups: Sequence[Setup], clock: Clock) -> None:
        self._options, self._examples, self._clock = setups[0].training, setups[0].examples, clock
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
            self._connections.append(Connection(ours.detach()))
        for connection, setup in zip(self._connections, setups, strict=True):  # it waits until one reads; all start now
            self._send(connection, pickle.dumps(setup), "while it started")  # to a process of our own, once
        for connection in self._connections:
            self._receive(connection, "while it started")

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works.

        Raises:
            WorkerError: a process ended or failed; it and its clients are named.
        """
        options = self._options
        clients = options.clients_per_pass if options.engine == "batched" else 1
        assert isinstance(clients, int)
        assert isinstance(options.lanes, int)
        passes = in_passes(works, clients * options.lanes, self._examples, options.batch_size)
        yield from in_order(works, self._arriving(passes))

    def _arriving(self, passes: list[list[Work]]) -> Iterator[Outcome]:
        """The passes' outcomes as the processes finish them."""
        busy: dict[Connection, list[Work]] = {}
        with self._clock.shares() as book:
            while passes or busy:
                for connection in self._connections:
                    if passes and connection not in busy:
                        busy[connection] = passes.pop(0)
                        together = Pass({work.client: work for work in busy[connection]})
                        self._send(connection, codec.dumps(together), _training(busy[connection]))
                ready = wait(list(busy))
                for connection in [one for one in busy if one in ready]:
                    done = self._receive(connection, _training(busy[connection]))
                    del busy[connection]
                    book(done.seconds)
                    yield from done.outcomes.values()

    def _send(self, connection: Connection, data: bytes, when: str) -> None:
        try:
            connection.send_bytes(data)
        except OSError:
            self._fail(connection, when)

    def _receive(self, connection: Connection, when: str) -> Done:
        try:
            done = codec.loads(Done, connection.recv_bytes())
        except (EOFError, OSError):
            self._fail(connection, when)
        if not done.error:
            return done
        self.close()
        raise named(done.error, WorkerError)(done.message)

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


def _training(works: Sequence[Work]) -> str:
    names = [work.client for work in works]
    return "while it trained " + ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def serve(connection: Connection) -> None:
    """A worker process: make the engine, then train what comes until nothing more does."""
    setup: Setup = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(setup.threads)
    engine: Local | SideBySide | None = None
    works: list[Work] = []
    while True:
        try:
            if engine is None:
                engine = setup.engine()
                answer = Done()
            else:
                works = list(codec.loads(Pass, connection.recv_bytes()).works.values())
                outcomes = {outcome.client: outcome for outcome in engine.run(works)}
                answer = Done(outcomes, engine.clock.take())
        except EOFError:
            return
        except PolyRankError as error:
            answer = Done(error=type(error).__name__, message=str(error))
        except Exception:  # whatever it was, the main process says it
            doing = _training(works) if engine else "while it started"
            answer = Done(
                error=WorkerError.__name__, message=f"a worker process failed {doing}:\n{traceback.format_exc()}"
            )
        try:
            connection.send_bytes(codec.dumps(answer))
        except OSError:
            return


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as _connection:
        serve(_connection)
