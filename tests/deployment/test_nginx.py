"""The guide's nginx before a stand-in for the SuperLink that writes down what reaches it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.deployment.conftest import Site

FLEET = (
    *("register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "pull-messages"),
    *("push-messages", "get-run", "get-fab", "push-object", "pull-object", "confirm-message-received"),
)
"""All calls of `flwr.supernode.fleet_http_client` in 1.41."""


@pytest.fixture(scope="module")
def reached(site: Site) -> Iterator[list[tuple[str, int]]]:
    """Path and bytes of each request that got through to the SuperLink's port."""
    seen: list[tuple[str, int]] = []

    class Write(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, len(body)))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # the names that are called

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", site.inner), Write)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(site.tls / "server.crt", site.tls / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield seen
    server.shutdown()
    server.server_close()


def status(site: Site, path: str, verb: str = "POST", body: bytes = b"x", more: str = "") -> int:
    """The status of one request whose path is sent as it stands, with every dot and escape in it."""
    context = ssl.create_default_context(cafile=str(site.tls / "ca.crt"))
    head = (
        f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    with (
        socket.create_connection(("127.0.0.1", site.public), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head.encode() + body)
        answer = connection.recv(4096)
    return int(answer.split()[1])


@pytest.mark.parametrize("call", FLEET)
def test_fleet_gets_through(nginx: Site, reached: list[tuple[str, int]], call: str):
    reached.clear()
    assert status(nginx, f"/v1/fleet/{call}") == 200
    assert reached == [(f"/v1/fleet/{call}", 1)]


def test_a_piece_of_an_array_gets_through(nginx: Site, reached: list[tuple[str, int]]):
    """Flower's pieces have 5 MiB; 16 MiB pass."""
    reached.clear()
    assert status(nginx, "/v1/fleet/push-object", body=bytes(16 * 2**20)) == 200
    assert reached == [("/v1/fleet/push-object", 16 * 2**20)]


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/control/start-run", "/v1/control/list-runs", "/v1/control/register-node"),
        *("/v1/runtime/acquire-task", "/v1/runtime/get-nodes", "/v1/runtime/responses"),
        *("/health", "/docs", "/openapi.json", "/", "/v1", "/v1/fleet", "/v1/fleet/", "/v2/fleet/get-run"),
        *("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/..%2fcontrol/start-run"),
        *("/v1/fleet/%252e%252e/control/start-run", "/v1/fleet/x/../../control/start-run", "//v1/control/start-run"),
        *("/v1/fleet/get-run/../../control/start-run", "/V1/CONTROL/start-run", "/v1/fleet/get-run;/../control/x"),
        *("/v1/control/start-run?/v1/fleet/get-run", "/v1/control/start-run#/v1/fleet/get-run", "/v1/fleet/get-run%00"),
        "/v1/fleet\\..\\control\\start-run",
    ],
)
def test_nothing_else_does(nginx: Site, reached: list[tuple[str, int]], path: str, verb: str):
    reached.clear()
    assert status(nginx, path, verb) in (400, 403, 405)
    assert reached == []


def test_what_is_sent_on_is_what_was_compared(nginx: Site, reached: list[tuple[str, int]]):
    """Not what the client wrote: a server behind may understand dots and escapes in another way."""
    reached.clear()
    assert status(nginx, "/v1/control/../fleet/get-run?x=/v1/control/start-run") == 200
    assert status(nginx, "/v1/%66leet/get%2Drun") == 200
    assert reached == [("/v1/fleet/get-run", 1)] * 2


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_fleet_is_posted_to_only(nginx: Site, reached: list[tuple[str, int]], verb: str):
    reached.clear()
    assert status(nginx, "/v1/fleet/get-run", verb) == 403
    assert reached == []


def test_a_second_request_hidden_in_the_first_one_does_not_get_through(nginx: Site, reached: list[tuple[str, int]]):
    """Content-Length and Transfer-Encoding together: the sides would disagree where the first request ends."""
    reached.clear()
    hidden = b"0\r\n\r\nPOST /v1/control/start-run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    status(nginx, "/v1/fleet/get-run", body=hidden, more="Transfer-Encoding: chunked\r\n")
    assert not any("control" in path for path, _ in reached)
