"""Flower's real processes on this machine, quiet and offline, for benchmarks and tests."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from polyrank.site.certificates import make
from polyrank.site.switches import SWITCHES

SCRIPTS = Path(sys.executable).parent
QUIET = {
    **SWITCHES,
    "HF_HUB_OFFLINE": "1",
    "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
}
"""Flower, Ray and transformers offline, and this environment's commands first."""

Process = subprocess.Popen[bytes]


def sets(values: Sequence[str]) -> list[str]:
    """A configuration's values for a command of ours."""
    return [part for text in values for part in ("--set", text)]


def said(command: Sequence[str | Path], environment: dict[str, str], seconds: float = 120) -> str:
    """What a command says that ends by itself.

    Raises:
        RuntimeError: it failed; with all that it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait(what: Callable[[], object], seconds: float, why: str) -> None:
    """Until something is so.

    Raises:
        TimeoutError: it was not within the time.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"{why} within {seconds:g} s")
        time.sleep(0.2)


def wait_for_port(port: int, process: Process, seconds: float = 60) -> None:
    """Until something listens.

    Raises:
        TimeoutError: nothing did within the time, or the process ended.
    """

    def listens() -> bool:
        if process.poll() is not None:
            raise TimeoutError(f"{process.args!r} ended with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    wait(listens, seconds, f"nothing listened on {port}")


class Processes:
    """Processes with their output in files, each the head of a group of its own; ended with the block.

    Args:
        folder: for their output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[Process] = []
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in reversed(self._all):
            self.end(process)

    def start(self, *command: str | Path, environment: dict[str, str] | None = None) -> Process:
        """Begin one."""
        path = self.folder / f"{len(self._all):02d}-{Path(command[0]).name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self._all.append(process)
        self._logs[process.pid] = path
        return process

    def kill(self, process: Process) -> None:
        """SIGKILL, to it and all that it has started."""
        self.signal(process, signal.SIGKILL)
        process.wait()

    def signal(self, process: Process, sent: signal.Signals) -> None:
        """A signal, to it and all that it has started."""
        os.killpg(process.pid, sent)

    def end(self, process: Process) -> None:
        """SIGTERM, and SIGKILL for what is left of its group after ten seconds."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()

    def said(self, process: Process) -> str:
        """What one has written."""
        return self._logs[process.pid].read_text(encoding="utf-8", errors="replace")

    def output(self) -> str:
        """The last of what all have written, for messages."""
        return "\n".join(f"--- {self._logs[one.pid].name}\n{self.said(one)[-3000:]}" for one in self._all)


class Simulation:
    """Commands for Flower's simulation, with a local SuperLink of their own, which is ended with the block.

    Args:
        folder: where they run, and Flower's home is.
        before: what stands before each command.
    """

    def __init__(self, folder: Path, before: Sequence[str] = ()) -> None:
        self.folder, self.before, self.port = folder, before, free_port()
        self.environment = {**QUIET, "FLWR_HOME": str(folder / "flower"), "OMP_NUM_THREADS": "1"}
        self.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] = str(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.port) in part for part in process.info["cmdline"] or ()) and process.pid != os.getpid():
                process.send_signal(signal.SIGTERM)

    def __call__(self, *command: str | Path, cwd: Path | None = None, seconds: float = 300) -> str:
        """What a command says, in the folder or another one."""
        return said([*self.before, "env", f"--chdir={cwd or self.folder}", *command], self.environment, seconds)


class Deployment:
    """A SuperLink on loopback and its SuperNodes, over TLS with keys, as docs/deployment.md has them.

    Args:
        folder: for certificates, state and Flower's home; new or empty.
        processes: that they become.
        nodes: how many keys are made.
        durable: whether the SuperLink keeps its state in a file and a SuperExec of its own starts the ServerApp, so
            that a killed SuperLink can be started again.
    """

    def __init__(self, folder: Path, processes: Processes, *, nodes: int = 3, durable: bool = False) -> None:
        self.folder, self.processes, self.port, self.durable = folder, processes, free_port(), durable
        self.tls, home = folder / "tls", folder / "flwr"
        make(self.tls, nodes=nodes)
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink.there]\naddress = "{self.address}"\nroot-certificates = "{self.tls / "ca.crt"}"\n',
            encoding="utf-8",
        )
        self.environment = {**QUIET, "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"}
        if durable:
            self.secret = folder / "superexec.secret"
            self.secret.touch(mode=0o600)
            self.secret.write_text(secrets.token_hex(32), encoding="ascii")
        self.start_link()
        if durable:
            self._start("flower-superexec", "--runtime-api-address", self.address, *self._ca(), *self._secret())

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"127.0.0.1:{self.port}"

    def start_link(self) -> Process:
        """The SuperLink, again after it was killed."""
        keep = (
            ("--isolation", "process", "--database", self.folder / "state.db", *self._secret()) if self.durable else ()
        )
        self.link = self._start(
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), *keep),
            *("--enable-supernode-auth", "--ssl-ca-certfile", self.tls / "ca.crt"),
            *("--ssl-certfile", self.tls / "server.crt", "--ssl-keyfile", self.tls / "server.key"),
        )
        wait_for_port(self.port, self.link)
        return self.link

    def register(self, i: int) -> None:
        """Let node ``i`` in."""
        self.flwr("supernode", "register", str(self.tls / f"node{i}.pub"), "there")

    def node(self, i: int, config: str, ca: Path | None = None) -> Process:
        """SuperNode ``i``, with its configuration as on the command line."""
        return self._start(
            *("flower-supernode", "--superlink", self.address, *self._ca(ca)),
            *("--auth-supernode-private-key", self.tls / f"node{i}"),
            *("--host", "127.0.0.1", "--port", str(free_port()), "--node-config", config),
        )

    def site(self, socket: Path, values: Sequence[str]) -> Process:
        """A site's daemon."""
        return self._start("polyrank", "site", "--socket", socket, *sets(values))

    def online(self) -> int:
        """How many nodes the SuperLink has now."""
        found = json.loads(self.flwr("supernode", "list", "there", "--format", "json"))
        return sum(node["status"] == "online" for node in found["nodes"])

    def init(self, app: Path, out: Path, values: Sequence[str]) -> Path:
        """An app, by ``polyrank flower init``."""
        said([SCRIPTS / "polyrank", "flower", "init", app, *sets(values), "--out", out], self.environment)
        return app

    def run(self, app: Path, **settings: str | int | float | bool) -> int:
        """Begin a run of an app; its number."""
        chosen = " ".join(f"{name.replace('_', '-')}={_toml(value)}" for name, value in settings.items())
        begun = self.flwr("run", str(app), "there", "--run-config", chosen, "--format", "json")
        return int(json.loads(begun)["run-id"])

    def status(self, run: int) -> str:
        """How a run is doing, as in ``flwr ls``."""
        (found,) = json.loads(self.flwr("ls", "there", "--run-id", str(run), "--format", "json"))["runs"]
        return str(found["status"])

    def flwr(self, *arguments: str) -> str:
        """What a command of Flower's says."""
        return said([SCRIPTS / "flwr", *arguments], self.environment)

    def _start(self, name: str, *arguments: str | Path) -> Process:
        return self.processes.start(SCRIPTS / name, *arguments, environment=self.environment)

    def _ca(self, ca: Path | None = None) -> tuple[str, Path]:
        return "--root-certificates", ca or self.tls / "ca.crt"

    def _secret(self) -> tuple[str, Path]:
        return "--superexec-auth-secret-file", self.secret


def _toml(value: Any) -> str:  # Any: plain values
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
