"""One client at a time, whatever it does: at a site that does nothing, in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import SiteError
from polyrank.federation.participant import Facts, Participant
from polyrank.site import requests
from polyrank.site.daemon import attend
from polyrank.site.protocol import Deadline, receive, send
from polyrank.training.work import Outcome, Work

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")

ADAPTER = Adapter({"q": Factors(torch.ones(1, 2), torch.ones(3, 1))})


@dataclass
class Idle(Participant):
    """Gives back what it is sent, or raises what it is told to."""

    raises: Exception | None = None
    large: int = 1
    done: list[str] = field(default_factory=list)

    def facts(self, client: str) -> Facts:
        self.done.append(client)
        return Facts(1, (1,))

    def do(self, work: Work) -> Outcome:
        self.done.append(work.client)
        if self.raises is not None:
            raise self.raises
        return Outcome(work.client, {"big": torch.zeros(self.large)}, 1.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def attended(theirs: socket.socket, site: Participant, patience: float = 0.3) -> list[str]:
    said: list[str] = []
    start = time.monotonic()
    attend(theirs, site, said.append, patience)
    assert time.monotonic() - start < 5
    return said


def reply_to(ours: socket.socket) -> Facts | Outcome:
    frame = receive(ours, Deadline(1))
    assert frame is not None
    return requests.read_reply(*frame)


TRAIN = requests.framed(Work("ann", 2, ADAPTER, 0))


def test_a_client_that_says_nothing_is_given_up(pair: tuple[socket.socket, socket.socket]):
    assert "gave up on a client" in attended(pair[1], Idle())[0]


def test_a_client_that_stops_in_the_middle_is_given_up(pair: tuple[socket.socket, socket.socket]):
    pair[0].sendall(b"PRS2\0\0")
    assert "gave up on a client" in attended(pair[1], Idle())[0]


def test_a_client_that_hung_up_before_its_turn_is_passed_over(pair: tuple[socket.socket, socket.socket]):
    site = Idle()
    send(pair[0], *TRAIN, Deadline(1))
    pair[0].close()
    assert attended(pair[1], site) == ["round 2, training ann: passed over, the client hung up before its turn"]
    assert site.done == []


@pytest.mark.parametrize("kind", ["x\n" * 10**4, "\x1b[2J"])
def test_what_a_client_calls_itself_is_reported_on_one_line(pair: tuple[socket.socket, socket.socket], kind: str):
    """Neither a terminal's commands, nor a second line that looks like the daemon's own, nor ten thousand letters."""
    name = "\x1b[2Jann\nready at /other" + "n" * 10**4
    work = {**TRAIN[0]["work"], "client": name}
    for header in ({"work": work}, {kind: work}, {"work": {**work, kind: 1}}, {"work": {**work, "trains": [kind]}}):
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
    with pytest.raises(SiteError, match=f"failed at round 2, training ann: {type(error).__name__}"):
        reply_to(pair[0])


def test_a_reply_that_is_no_json_is_an_error_reply_too(pair: tuple[socket.socket, socket.socket]):
    """A participant of somebody's own, whose metrics are objects."""

    class Odd(Idle):
        def do(self, work: Work) -> Outcome:
            return Outcome(work.client, {}, 1.0, {"loss": object()})  # type: ignore[dict-item]

    send(pair[0], *TRAIN, Deadline(1))
    attended(pair[1], Odd())
    with pytest.raises(SiteError, match="failed at round 2, training ann: TypeError"):
        reply_to(pair[0])


@pytest.mark.parametrize("error", [MemoryError("no memory"), RuntimeError("nobody foresaw"), SiteError("no request")])
def test_whatever_reading_a_request_raises_is_an_error_reply(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """Bytes of somebody else's may break a library in ways that it does not tell of."""

    def broken(data: bytes) -> dict[str, torch.Tensor]:  # noqa: ARG001
        raise error

    monkeypatch.setattr(codec, "from_bytes", broken)
    send(pair[0], *TRAIN, Deadline(1))
    site = Idle()
    assert "refused a request: " in attended(pair[1], site)[0]
    assert site.done == []
    with pytest.raises(SiteError, match=r"reading a request: \w+Error \(its log|no request"):
        reply_to(pair[0])


def test_a_site_says_why_nothing_was_trained(pair: tuple[socket.socket, socket.socket]):
    class Out(Idle):
        def do(self, work: Work) -> Outcome:
            return Outcome(work.client, problem="no example today")

    send(pair[0], *TRAIN, Deadline(1))
    attended(pair[1], Out())
    found = reply_to(pair[0])
    assert isinstance(found, Outcome)
    assert (found.trained, found.problem) == (None, "no example today")
