"""The other end of a site's socket: a `Participant` that asks the daemon."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from polyrank.core.errors import SiteError
from polyrank.federation.participant import Facts, Participant
from polyrank.site import requests
from polyrank.site.address import check_system, connect
from polyrank.site.protocol import Deadline, peer_uid, receive, seconds, send
from polyrank.site.requests import Asked, Frame
from polyrank.training.work import Outcome, Work

T = TypeVar("T", Facts, Outcome)

_AGAIN = 0.05


class SiteClient(Participant):
    """Asks a site's daemon. Every call has a connection of its own, so that a restarted daemon is simply there again.

    Args:
        path: of the daemon's socket.
        timeout: seconds for a call, waiting for other clients' work and for a daemon that still loads included.

    Raises (every call):
        SiteError: there is no daemon, it belongs to another user, it ended in the middle of the work, or it did not
            reply in time. Nothing is left half done: the same call may be made again.
        PolyRankError: the site refused the work (an adapter that does not fit, an unknown client, ...), as
            a `Site` in this process would.
    """

    def __init__(self, path: str | Path, timeout: float = 3600.0) -> None:
        check_system()
        self.path = Path(path)
        self.timeout = seconds(timeout)

    def facts(self, client: str) -> Facts:
        """See `Participant`."""
        return self._ask(Asked(client), Facts)

    def do(self, work: Work) -> Outcome:
        """See `Participant`."""
        return self._ask(work, Outcome)

    def _ask(self, request: requests.Request, kind: type[T]) -> T:
        what = requests.what(request)
        ended = f"the site's daemon at {self.path} ended at {what}; start it again: polyrank site --socket {self.path}"
        try:
            frame = self._exchange(requests.framed(request))
        except TimeoutError:
            raise SiteError(
                f"the site's daemon at {self.path} did not reply within {self.timeout:g} s at {what}; it hangs, is "
                "stopped, is still loading, or has other work: look at its log, restart it, or give it more time"
            ) from None
        except OSError:  # it reset the connection
            raise SiteError(ended) from None
        if frame is None:
            raise SiteError(ended)
        reply = requests.read_reply(*frame)
        if not isinstance(reply, kind):
            raise SiteError(f"the site replied {type(reply).__name__.lower()} at {what}; is it of this version?")
        return reply

    def _exchange(self, frame: Frame) -> Frame | None:
        deadline = Deadline(self.timeout)
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(deadline.left())
                if not connect(self.path, connection):
                    time.sleep(min(_AGAIN, deadline.left()))
                    continue
                uid = peer_uid(connection)
                if uid not in (None, os.geteuid()):
                    raise SiteError(f"the daemon at {self.path} belongs to user {uid}, this process to {os.geteuid()}")
                with suppress(BrokenPipeError, ConnectionResetError):  # it may have said why before it hung up
                    send(connection, *frame, deadline)
                return receive(connection, deadline)
