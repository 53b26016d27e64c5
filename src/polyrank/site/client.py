"""The other end of a site's socket: a `Worker` that asks the daemon."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from polyrank.core.adapter import Adapter
from polyrank.core.errors import SiteError
from polyrank.core.state import ClientUpdate
from polyrank.site import messages
from polyrank.site.address import check_system, connect
from polyrank.site.messages import Frame
from polyrank.site.protocol import Deadline, peer_uid, receive, seconds, send
from polyrank.site.worker import Facts, Task, Worker

T = TypeVar("T")

_AGAIN = 0.05


class SiteClient(Worker):
    """Asks a site's daemon. Every call has a connection of its own, so that a restarted daemon is simply there again.

    Args:
        path: of the daemon's socket.
        timeout: seconds for a call, waiting for other clients' tasks and for a daemon that still loads included.

    Raises (every call):
        SiteError: there is no daemon, it belongs to another user, it ended in the middle of the task, or it did not
            reply in time. Nothing is left half done: the same call may be made again.
        PolyRankError: the site refused the task (an adapter that does not fit, an unknown client, ...), as
            `LocalWorker` would.
    """

    def __init__(self, path: str | Path, timeout: float = 3600.0) -> None:
        check_system()
        self.path = Path(path)
        self.timeout = seconds(timeout)

    def facts(self, client: str) -> Facts:
        """As `Worker`."""
        return self._ask(messages.facts_request(client), messages.read_facts, f"facts of {client}")

    def train(self, task: Task) -> ClientUpdate:
        """As `Worker`."""
        what = f"round {task.round}, training {task.client}"
        return self._ask(messages.train_request(task), messages.read_update, what)

    def score(self, client: str, adapter: Adapter, base_change: Adapter | None = None) -> Mapping[str, float]:
        """As `Worker`."""
        request = messages.score_request(client, adapter, base_change)
        return self._ask(request, messages.read_scores, f"scoring for {client}")

    def _ask(self, frame: Frame, read: Callable[[Mapping[str, Any], bytes], T], what: str) -> T:
        ended = f"the site's daemon at {self.path} ended at {what}; start it again: polyrank site --socket {self.path}"
        try:
            reply = self._exchange(frame)
        except TimeoutError:
            raise SiteError(
                f"the site's daemon at {self.path} did not reply within {self.timeout:g} s at {what}; it hangs, is "
                "stopped, is still loading, or has other tasks: look at its log, restart it, or give it more time"
            ) from None
        except OSError:  # it reset the connection
            raise SiteError(ended) from None
        if reply is None:
            raise SiteError(ended)
        messages.raise_error(reply[0])
        return read(*reply)

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
