"""The guide's deployment with the real thing: a SuperLink on loopback, nginx before it, a SuperNode outside."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from benchmarks.deployment import QUIET, SCRIPTS, Processes, free_port, wait_for_port

from tests.deployment.conftest import Site


@pytest.fixture(scope="module")
def environment(site: Site) -> dict[str, str]:
    """Quiet and offline, with the connections of an administrator: from inside, and from where the nodes are."""
    home = site.folder / "flwr"
    home.mkdir()
    connections = {"inside": site.inner, "outside": site.public}
    (home / "config.toml").write_text(
        "\n".join(
            f'[superlink.{name}]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{site.tls / "ca.crt"}"\n'
            for name, port in connections.items()
        ),
        encoding="utf-8",
    )
    return {**QUIET, "FLWR_HOME": str(home)}


@pytest.fixture(scope="module")
def superlink(nginx: Site, processes: Processes, environment: dict[str, str]) -> Site:
    tls, secret = nginx.tls, nginx.folder / "superexec.secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32), encoding="ascii")
    process = processes.start(
        *(SCRIPTS / "flower-superlink", "--host", "127.0.0.1", "--port", str(nginx.inner)),
        *("--isolation", "process", "--database", nginx.folder / "state.db", "--enable-supernode-auth"),
        *("--ssl-ca-certfile", tls / "ca.crt", "--ssl-certfile", tls / "server.crt"),
        *("--ssl-keyfile", tls / "server.key", "--superexec-auth-secret-file", secret),
        environment=environment,
    )
    wait_for_port(nginx.inner, process)
    return nginx


def flwr(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in (SCRIPTS / "flwr", *arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=120, check=False
    )


def nodes(environment: dict[str, str], connection: str) -> list[dict[str, str]] | None:
    """The SuperLink's nodes; None where they may not be asked for."""
    found = flwr(environment, "supernode", "list", connection, "--format", "json")
    try:
        answer = json.loads(found.stdout)
    except ValueError:
        return None
    return answer.get("nodes") if answer.get("success") else None


def post(port: int, path: str, ca: Path) -> int:
    context = ssl.create_default_context(cafile=str(ca))
    request = urllib.request.Request(f"https://localhost:{port}{path}", data=b"", method="POST")
    request.add_header("content-type", "application/protobuf")
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_supernode_comes_through_and_control_does_not(
    superlink: Site, processes: Processes, environment: dict[str, str]
):
    """The SuperLink knows node0 alone, so node1 stays out; nobody outside can register a key, or ask for the nodes."""
    tls = superlink.tls
    assert nodes(environment, "inside") == []
    assert nodes(environment, "outside") is None
    for i, connection in enumerate(("inside", "outside")):
        registered = flwr(environment, "supernode", "register", tls / f"node{i}.pub", connection)
        assert (registered.returncode == 0) == (connection == "inside"), registered.stdout + registered.stderr
    for i in range(2):
        processes.start(
            *(SCRIPTS / "flower-supernode", "--superlink", f"127.0.0.1:{superlink.public}"),
            *("--root-certificates", tls / "ca.crt", "--auth-supernode-private-key", tls / f"node{i}"),
            *("--host", "127.0.0.1", "--port", str(free_port()), "--node-config", "lora-rank=5 partition-id=0"),
            environment=environment,
        )
    refused = '"POST /v1/fleet/activate-node HTTP/1.1" 412'  # node1: its key is not known
    end = time.monotonic() + 60
    while True:
        found = nodes(environment, "inside") or []
        log = (superlink.folder / "access.log").read_text(encoding="utf-8")
        if [node["status"] for node in found] == ["online"] and refused in log:
            break
        assert time.monotonic() < end, (found, log)
        time.sleep(0.5)
    assert '"POST /v1/fleet/activate-node HTTP/1.1" 200' in log
    assert '"POST /v1/control/register-node HTTP/1.1" 403' in log


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task"])
def test_the_same_calls_work_on_loopback_and_are_refused_outside(superlink: Site, path: str):
    """On loopback the SuperLink itself answers, whatever it thinks of an empty request; outside nginx does."""
    assert post(superlink.public, path, superlink.tls / "ca.crt") == 403
    assert post(superlink.inner, path, superlink.tls / "ca.crt") not in (403, 404)


def test_what_the_guide_says_of_loopback(superlink: Site):
    """Control asks for no credential at all; tasks are handed out only to who knows the secret of SuperExec."""
    assert post(superlink.inner, "/v1/control/list-runs", superlink.tls / "ca.crt") == 200
    assert post(superlink.inner, "/v1/runtime/acquire-task", superlink.tls / "ca.crt") == 401
