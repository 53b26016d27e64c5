"""A server on loopback for one page: it answers who knows the token and nobody else, and writes nothing."""

from __future__ import annotations

import json
import logging
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from polyrank.core.errors import ReportError, RunFolderError

if TYPE_CHECKING:
    from polyrank.report.live.board import Board

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PATIENCE = 10
"""Seconds for a request to arrive."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The policy of an answer that is no page."""


class Server(ThreadingHTTPServer):
    """Watches some run folders; what a page needs is imported when it is asked for.

    Args:
        folders: of runs, or that hold some; they need not be there.
        port: 0 for one that is free.

    Raises:
        ReportError: the port cannot be had.
        RunFolderError: a folder is a file.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        for path in folders:
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path} is a file; expected a run folder, one that holds some, or one to come")
        self.folders, self.token = folders, secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ReportError(
                f"port {port} of {HOST} cannot be had: {error.strerror or error}; give another --port, or none"
            ) from error

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> set[str]:
        """What a browser may call this server; another name is one that somebody made to point here."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def board(self) -> Board:
        """What is shown."""
        with self._lock:
            return self._board

    @cached_property
    def _board(self) -> Board:
        from polyrank.report.live.board import Board

        return Board(self.folders)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # Any: of the base class
        """A browser that went away is no error; another one is logged."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("a request failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE

    def do_GET(self) -> None:  # the name that http.server calls
        self._reply(body=True)

    def do_HEAD(self) -> None:  # as above
        self._reply(body=False)

    def _reply(self, *, body: bool) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._send(HTTPStatus.FORBIDDEN)
            return
        asked = urlsplit(self.path)
        _, token, *rest = [*asked.path.split("/"), ""]
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._send(HTTPStatus.NOT_FOUND)
        elif rest[:-1] == [""]:
            nonce = secrets.token_urlsafe(16)
            from polyrank.report.live.board import POLICY

            policy = f"{POLICY.format(nonce=nonce)}; frame-ancestors 'none'"
            self._send(HTTPStatus.OK, self.server.board().page(nonce), "text/html", policy, body=body)
        elif rest[:-1] == ["now"]:
            have = parse_qs(asked.query).get("have", [""])[0]
            self._send(HTTPStatus.OK, json.dumps(self.server.board().now(have)), "application/json", body=body)
        else:
            self._send(HTTPStatus.NOT_FOUND)

    def _send(
        self, status: int, text: str = "", kind: str = "text/plain", policy: str = NOTHING, *, body: bool = True
    ) -> None:
        content = text.encode("utf-8", "replace")  # half a character, as JSON can hold one
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content)), **HEADERS}
        for name, value in {**headers, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """No words: the base class would write what it was sent into a page."""
        self._send(HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else code)

    def version_string(self) -> str:
        """The server's name, and no versions."""
        return "polyrank"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # Any: of the base class
        """Nothing: addresses hold the token."""


def serve(server: Server, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C or SIGTERM.

    Args:
        server: which.
        ready: is told the address once it may be asked for.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ready(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        server.server_close()
