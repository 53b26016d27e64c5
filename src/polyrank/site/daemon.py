"""A site's own process: it holds base and data, and does one work after another for those who may ask."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from polyrank.core.errors import PolyRankError, SiteError
from polyrank.core.text import one_line
from polyrank.federation.participant import Participant
from polyrank.site.address import claimed, listening
from polyrank.site.protocol import Deadline, peer_uid, receive, send, start_of
from polyrank.site.requests import Asked, Frame, failed, framed, read_request, what

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds in which a client must have sent its request, or read its reply; then it is the next one's turn."""

LONGEST_LINE = 1000
"""Characters of a report."""

Report = Callable[[str], None]


class _Stop(BaseException):
    """SIGTERM or Ctrl-C; no error, so that nothing which handles errors holds it up."""


def serve(load: Callable[[], Participant], path: Path, report: Report = log.info, patience: float = PATIENCE) -> None:
    """Listen until SIGTERM or Ctrl-C; in the main thread of a process of its own.

    Work that fails gets an error reply, and so does a request that cannot be read; the daemon goes on. A client that
    hung up before its turn came is passed over.

    Args:
        load: makes what does the work, once it is clear that the address is free.
        path: of the socket, see `polyrank.site.address.claimed`.
        report: takes a line for each thing that happens.
        patience: seconds for a client to send, and to read.

    Raises:
        SiteError: the address cannot be used.
        PolyRankError: of ``load``.
    """
    with claimed(path):
        site = load()
        with _stopping(report), listening(path) as listener:
            report(f"ready at {path}")
            while True:
                connection, _ = listener.accept()
                with connection:
                    attend(connection, site, report, patience)


@contextmanager
def _stopping(report: Report) -> Iterator[None]:
    """Signals end the block, once; what follows is not interrupted again."""
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise _Stop

    before = {one: signal.signal(one, stop) for one in signals}
    try:
        yield
    except _Stop:
        report("ended")
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def attend(connection: socket.socket, site: Participant, tell: Report, patience: float) -> None:
    """One client, from its request to its reply; whatever it does, the daemon goes on.

    Args:
        connection: just accepted.
        site: does the work.
        tell: takes a line for each thing that happens, as ``report`` of `serve`.
        patience: as in `serve`.
    """

    def report(line: str) -> None:  # it may quote the client
        tell(one_line(line, LONGEST_LINE))

    uid = peer_uid(connection)
    if uid not in (None, os.geteuid()):
        refusal = failed(SiteError(f"this site's daemon belongs to user {os.geteuid()}; refused user {uid}"), "")
        report(refusal.message)
        _reply(connection, framed(refusal), report, patience)
        return
    try:
        frame = receive(connection, Deadline(patience))
        if frame is None:
            return
        request = read_request(*frame)
    except OSError as error:
        report(f"gave up on a client that had not sent its request: {str(error) or type(error).__name__}")
        return
    except Exception as error:
        if not isinstance(error, SiteError):
            log.exception("a request cannot be read")
        refusal = failed(error, "reading a request")
        report(f"refused a request: {refusal.message}")
        _reply(connection, framed(refusal), report, patience)
        return
    doing = what(request)
    if _hung_up(connection):
        report(f"{doing}: passed over, the client hung up before its turn")
        return
    report(f"{doing}: begins")
    start = time.monotonic()
    try:
        reply = framed(site.facts(request.client) if isinstance(request, Asked) else site.do(request))
        start_of(*reply)  # what cannot be sent is a failure of the work
        outcome = "done"
    except _Stop:
        lost = SiteError(f"the site's daemon was ended at {doing}; the work is lost, start the daemon again")
        _reply(connection, framed(failed(lost, "")), report, min(patience, 1.0))
        raise
    except Exception as error:
        if not isinstance(error, PolyRankError):
            log.exception("%s failed", doing)
        reply, outcome = framed(failed(error, doing)), f"failed: {type(error).__name__}: {error}"
        _free_memory()
    report(f"{doing}: {outcome} after {time.monotonic() - start:.1f} s")
    _reply(connection, reply, report, patience)


def _reply(connection: socket.socket, frame: Frame, report: Report, patience: float) -> None:
    try:
        send(connection, *frame, Deadline(patience))
    except (OSError, SiteError) as error:
        report(f"a reply could not be sent: {str(error) or type(error).__name__}")


def _hung_up(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _free_memory() -> None:
    """After a failure, perhaps for want of memory, the next work finds all of the GPU that is not in use."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
