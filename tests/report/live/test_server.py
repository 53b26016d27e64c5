from __future__ import annotations

import json
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from polyrank.core.errors import ReportError, RunFolderError
from polyrank.report.live.server import Server
from tests.report.folders import write_run

Watching = Callable[..., Server]


def ask(server: Server, path: str, method: str = "GET", host: str | None = None) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_the_page_and_its_numbers_are_for_those_with_the_token(watching: Watching, tmp_path: Path):
    folder = write_run(tmp_path / "a", rounds=2, planned=3)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    server = watching(folder)
    assert server.server_address[0] == "127.0.0.1"
    answer, text = ask(server, f"/{server.token}/")
    assert answer.status == 200
    assert b'class="plot"' in text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer, text = ask(server, f"/{server.token}/now?have=")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "round 2 of 3" in json.loads(text)["now"]
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}")[0].status == 200
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_head_has_no_content(watching: Watching, tmp_path: Path):
    server = watching(tmp_path / "a")
    answer, text = ask(server, f"/{server.token}/", "HEAD")
    assert (answer.status, text) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path", ["/", "//", "/now", "/x/", "/TOKEN", "/TOKENx/", "/x/TOKEN/", "/TOKEN/x", "/TOKEN/../", "/%00/", "/\xe9/"]
)
def test_without_the_token_there_is_nothing(watching: Watching, tmp_path: Path, path: str):
    server = watching(tmp_path / "a")
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        line = f"GET {path.replace('TOKEN', server.token)} HTTP/1.1\r\nHost: {next(iter(server.hosts))}\r\n\r\n"
        connection.sendall(line.encode("latin-1"))
        answer = HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.read()) == (404, b"")
        assert answer.headers["Server"].startswith("polyrank ") or answer.headers["Server"] == "polyrank"


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1", "127.0.0.1:1", "evil.example:PORT", "127.0.0.1.nip.io:PORT"]
)
def test_another_name_of_this_machine_is_refused(watching: Watching, tmp_path: Path, host: str):
    """A page elsewhere can make a name of its own lead to 127.0.0.1, and would then read what is answered."""
    server = watching(tmp_path / "a")
    answer, text = ask(server, f"/{server.token}/", host=host.replace("PORT", str(server.server_port)))
    assert (answer.status, text) == (403, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "<b>"])
def test_there_is_nothing_to_write_to(watching: Watching, tmp_path: Path, method: str):
    server = watching(tmp_path / "a")
    answer, text = ask(server, f"/{server.token}/", method)
    assert (answer.status, text) == (405, b"")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_tokens_differ(watching: Watching, tmp_path: Path):
    one, other = watching(tmp_path), watching(tmp_path)
    assert len(one.token) >= 32
    assert one.token != other.token
    assert ask(other, f"/{one.token}/")[0].status == 404


def test_a_port_that_is_taken_and_a_file_are_refused(watching: Watching, tmp_path: Path):
    port = watching(tmp_path).server_port
    with pytest.raises(ReportError, match=f"port {port} of 127.0.0.1 cannot be had"):
        Server([tmp_path], port)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file is a file; expected a run folder"):
        Server([tmp_path / "file"])
