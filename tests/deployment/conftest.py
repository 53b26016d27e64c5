from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyrank.site.certificates import make

CONFIGURATION = Path(__file__).parents[2] / "examples" / "deployment" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert time.monotonic() < end, f"nothing listens on {port}"
            time.sleep(0.05)


@dataclass(frozen=True)
class Site:
    """A folder as the guide has it, and the ports that its tests use.

    Args:
        folder: with tls/ and nginx.conf.
        public: where nginx listens.
        inner: where the SuperLink listens.
    """

    folder: Path
    public: int
    inner: int

    @property
    def tls(self) -> Path:
        return self.folder / "tls"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    if NGINX is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no nginx: .ci/run installs Debian's nginx-light")
        pytest.skip("no nginx here; Debian's: apt-get install nginx-light")
    made = Site(tmp_path_factory.mktemp("federation"), free_port(), free_port())
    make(made.tls, nodes=2)
    text = CONFIGURATION.read_text(encoding="utf-8")
    for theirs, ours in (("listen 8443", f"listen 127.0.0.1:{made.public}"), ("18443", str(made.inner))):
        assert theirs in text
        text = text.replace(theirs, ours)
    (made.folder / "nginx.conf").write_text(text, encoding="utf-8")
    return made


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start("flower-superlink", ...)`: a process with its output in a file; ended with the module."""
    folder = tmp_path_factory.mktemp("logs")
    processes: list[subprocess.Popen[bytes]] = []

    def run(*command: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (folder / f"{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        processes.append(process)
        return process

    yield run
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def nginx(site: Site, start: Start) -> Site:
    """The configuration of examples/, running."""
    assert NGINX is not None
    more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")  # the test's folder is its owner's alone
    process = start(NGINX, "-p", site.folder, "-c", "nginx.conf", "-g", more)
    wait_for_port(site.public, process)
    return site
