"""One client at a time, whatever it does: with a worker that does nothing, in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import SiteError
from polyrank.core.state import ClientUpdate
from polyrank.site import messages
from polyrank.site.daemon import attend
from polyrank.site.protocol import Deadline, receive, send
from polyrank.site.worker import Facts, Task, Worker

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")

ADAPTER = Adapter({"q": Factors(torch.ones(1, 2), torch.ones(3, 1))})


@dataclass
class Idle(Worker):
    """Gives back what it is sent, or raises what it is told to."""

    raises: Exception | None = None
    large: int = 1
    done: list[str] = field(default_factory=list)

    def facts(self, client: str) -> Facts:
        self.done.append(client)
        return Facts(1, (1,))

    def train(self, task: Task) -> ClientUpdate:
        self.done.append(task.client)
        if self.raises is not None:
            raise self.raises
        return ClientUpdate(task.client, Adapter(task.adapter.modules, {"big": torch.zeros(self.large)}), 1.0)

    def score(self, client: str, adapter: Adapter, base_change: Adapter | None = None) -> dict[str, float]:  # noqa: ARG002
        return {"loss": 0.0}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Attended = Callable[..., list[str]]


def attended(theirs: socket.socket, worker: Worker, patience: float = 0.3) -> list[str]:
    said: list[str] = []
    start = time.monotonic()
    attend(theirs, worker, said.append, patience)
    assert time.monotonic() - start < 5
    return said


TRAIN = messages.train_request(Task("ann", 2, ADAPTER, 0))


def test_a_client_that_says_nothing_is_given_up(pair: tuple[socket.socket, socket.socket]):
    assert "gave up on a client" in attended(pair[1], Idle())[0]


def test_a_client_that_stops_in_the_middle_is_given_up(pair: tuple[socket.socket, socket.socket]):
    pair[0].sendall(b"PRS1\0\0")
    assert "gave up on a client" in attended(pair[1], Idle())[0]


def test_a_client_that_hung_up_before_its_turn_is_passed_over(pair: tuple[socket.socket, socket.socket]):
    worker = Idle()
    send(pair[0], *TRAIN, Deadline(1))
    pair[0].close()
    assert attended(pair[1], worker) == ["round 2, training ann: passed over, the client hung up before its turn"]
    assert worker.done == []


@pytest.mark.parametrize("kind", ["x\n" * 10**4, ["\x1b[2J"]])
def test_what_a_client_calls_itself_is_reported_on_one_line(pair: tuple[socket.socket, socket.socket], kind: object):
    """Neither a terminal's commands, nor a second line that looks like the daemon's own, nor ten thousand letters."""
    for header in ({**TRAIN[0], "client": "\x1b[2Jann\nready at /other" + "n" * 10**4}, {"kind": kind}):
        send(pair[0], header, TRAIN[1], Deadline(1))
        for line in attended(pair[1], Idle()):
            assert line.isprintable()
            assert len(line) < 1100
        assert receive(pair[0], Deadline(1)) is not None


def test_a_client_that_looks_in_and_leaves_is_not_even_reported(pair: tuple[socket.socket, socket.socket]):
    pair[0].close()
    assert attended(pair[1], Idle()) == []


def test_a_client_that_does_not_read_its_reply_is_given_up(pair: tuple[socket.socket, socket.socket]):
    """32 MB do not fit into the buffers of a socket."""
    send(pair[0], *TRAIN, Deadline(1))
    assert "a reply could not be sent" in attended(pair[1], Idle(large=8_000_000))[-1]


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), RuntimeError("CUDA"), KeyError("x"), RecursionError("deep")]
)
def test_whatever_a_task_raises_is_an_error_reply(pair: tuple[socket.socket, socket.socket], error: Exception):
    send(pair[0], *TRAIN, Deadline(1))
    said = attended(pair[1], Idle(raises=error))
    assert f"failed: {type(error).__name__}" in said[-1]
    reply = receive(pair[0], Deadline(1))
    assert reply is not None
    with pytest.raises(SiteError, match=f"failed at round 2, training ann: {type(error).__name__}"):
        messages.raise_error(reply[0])


def test_a_reply_that_is_no_json_is_an_error_reply_too(pair: tuple[socket.socket, socket.socket]):
    """A worker of somebody's own, whose metrics are tensors."""

    class Odd(Idle):
        def train(self, task: Task) -> ClientUpdate:
            return ClientUpdate(task.client, task.adapter, 1.0, {"loss": torch.tensor(1.0)})  # type: ignore[dict-item]

    send(pair[0], *TRAIN, Deadline(1))
    attended(pair[1], Odd())
    reply = receive(pair[0], Deadline(1))
    assert reply is not None
    with pytest.raises(SiteError, match="failed at round 2, training ann: TypeError"):
        messages.raise_error(reply[0])
