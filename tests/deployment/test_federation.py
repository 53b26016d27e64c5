"""A federation over TLS with keys: one SuperLink, three SuperNodes of ranks 20, 5 and 2."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from polyrank import config as configuration
from polyrank.federation import checkpoint
from polyrank.federation.runner import run
from polyrank.site.certificates import make
from tests.deployment.conftest import Start, free_port, wait_for_port

pytestmark = pytest.mark.skipif(find_spec("flwr") is None, reason="no Flower here: pip install 'polyrank[flower]'")

SCRIPTS = Path(sys.executable).parent
RANKS = (20, 5, 2)
"""As the policy gives them, so that a local run has them too."""
SMALL = [
    *("federation.rounds=2", "federation.clients=3", "federation.participation=1.0", "ranks.policy=fixed"),
    *("ranks.levels=[2, 5, 20]", "ranks.counts=[1, 1, 1]", "data.limit_train=300", "data.limit_test=100"),
    *("training.engine=batched", "training.clients_per_pass=1", "training.workers=1"),
    *("training.precision=float32", "training.attention=sdpa", "model.config.num_hidden_layers=1"),
]


class Deployment:
    """A SuperLink with its three SuperNodes, and the app."""

    def __init__(self, folder: Path, start: Start) -> None:
        self.folder, self.start, self.port = folder, start, free_port()
        self.tls = folder / "tls"
        make(self.tls, nodes=3)
        home = folder / "flwr"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink.there]\naddress = "127.0.0.1:{self.port}"\nroot-certificates = "{self.tls / "ca.crt"}"\n',
            encoding="utf-8",
        )
        self.environment = {
            **{"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"},
            **{"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "OMP_NUM_THREADS": "1"},
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        }
        link = start(
            *(SCRIPTS / "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--enable-supernode-auth", "--ssl-ca-certfile", self.tls / "ca.crt"),
            *("--ssl-certfile", self.tls / "server.crt", "--ssl-keyfile", self.tls / "server.key"),
            environment=self.environment,
        )
        wait_for_port(self.port, link)
        for i in range(3):
            self.flwr("supernode", "register", str(self.tls / f"node{i}.pub"), "there")

    def node(self, i: int) -> subprocess.Popen[bytes]:
        return self.start(
            *(SCRIPTS / "flower-supernode", "--superlink", f"127.0.0.1:{self.port}"),
            *("--root-certificates", self.tls / "ca.crt", "--auth-supernode-private-key", self.tls / f"node{i}"),
            *("--host", "127.0.0.1", "--port", str(free_port())),
            *("--node-config", f"partition-id={i} lora-rank={RANKS[i]}"),
            environment=self.environment,
        )

    def flwr(self, *arguments: str) -> str:
        command = [str(SCRIPTS / "flwr"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.environment, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def begin(self, out: Path, *settings: str) -> None:
        sets = [part for text in SMALL for part in ("--set", text)]
        app = out.with_name(f"{out.name}-app")
        subprocess.run(
            [str(SCRIPTS / "polyrank"), "flower", "init", str(app), *sets, "--out", str(out)], check=True, timeout=120
        )
        chosen = " ".join(["min-nodes=3", "timeout=100.0", "repeats=0", *settings])
        self.flwr("run", str(app), "there", "--run-config", chosen)


def wait(what: Any, seconds: float, why: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.3)


def test_a_deployment_gives_what_a_local_run_gives(tmp_path: Path, start: Start):
    run(configuration.load(None, SMALL), tmp_path / "local")
    deployment = Deployment(tmp_path, start)
    nodes = [deployment.node(i) for i in range(3)]
    out = tmp_path / "deployed"
    deployment.begin(out)
    wait((out / "summary.json").is_file, 300, "the run did not end")
    one, other = (checkpoint.load(tmp_path / name / "checkpoint") for name in ("local", "deployed"))
    assert one.ranks == other.ranks
    assert tuple(one.ranks.values()) == RANKS
    for (name, ours), (_, theirs) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5, name
    assert all(process.poll() is None for process in nodes)
