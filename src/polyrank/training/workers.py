"""A round's clients spread over processes, each with a base of its own; the same results with any number of them."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import IO, NoReturn

from polyrank.core.errors import PolyRankError, WorkerError
from polyrank.training.profile import Clock
from polyrank.training.remote import Done, Setup, Trainer, answered, ask, passes_for, training
from polyrank.training.work import Engine, Outcome, Work, in_order


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
        self._setup, self._clock = setups[0], clock
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
        yield from in_order(works, self._arriving(passes_for(works, self._setup)))

    def _arriving(self, passes: list[list[Work]]) -> Iterator[Outcome]:
        """The passes' outcomes as the processes finish them."""
        busy: dict[Connection, list[Work]] = {}
        with self._clock.shares() as book:
            while passes or busy:
                for connection in self._connections:
                    if passes and connection not in busy:
                        busy[connection] = passes.pop(0)
                        self._send(connection, ask(busy[connection]), training(busy[connection]))
                ready = wait(list(busy))
                for connection in [one for one in busy if one in ready]:
                    done = self._receive(connection, training(busy[connection]))
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
            data = connection.recv_bytes()
        except (EOFError, OSError):
            self._fail(connection, when)
        try:
            return answered(data)
        except PolyRankError:
            self.close()
            raise

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


def serve(connection: Connection) -> None:
    """A worker process: make the engine, then train what comes until nothing more does."""
    trainer = Trainer()
    answer: Callable[[bytes], bytes] = trainer.start
    with suppress(EOFError, OSError):
        while True:
            connection.send_bytes(answer(connection.recv_bytes()))
            answer = trainer.train


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as _connection:
        serve(_connection)
