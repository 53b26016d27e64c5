"""`polyrank flower init` and `flwr run`, in real processes: the adapter is that of `polyrank run`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from polyrank.federation import checkpoint

pytest.importorskip("flwr", reason="needs the extra flower")

BIN = Path(sys.executable).parent
SMALL = [
    *("federation.rounds=2", "federation.clients=4", "federation.participation=0.5", "ranks.policy=random"),
    *("data.limit_train=400", "data.limit_test=100", "training.engine=batched", "training.clients_per_pass=1"),
    *("training.precision=float32", "training.attention=sdpa", "training.workers=1"),
]


def test_a_simulation_gives_what_a_local_run_gives(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    quiet = {
        **{"FLWR_HOME": str(tmp_path / "flower"), "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port)},
        **{"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "FLWR_TELEMETRY_ENABLED": "0"},
        **{"FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    environment = {**os.environ, **quiet}

    def call(*command: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    sets = [part for text in SMALL for part in ("--set", text)]
    call("polyrank", "run", "--out", "local", *sets)
    call("polyrank", "flower", "init", "app", *sets, "--out", str(tmp_path / "simulated"))
    try:
        said = call("flwr", "run", ".", "--stream", "--federation-config", "num-supernodes=4", cwd=tmp_path / "app")
        summary = tmp_path / "simulated" / "summary.json"
        assert summary.is_file(), said
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(port) in part for part in process.info["cmdline"] or ()) and process.pid != os.getpid():
                process.send_signal(signal.SIGTERM)
    assert json.loads(summary.read_text(encoding="utf-8"))["rounds"] == 2
    one, other = (checkpoint.load(tmp_path / name / "checkpoint") for name in ("local", "simulated"))
    assert one.ranks == other.ranks
    for (name, ours), (_, theirs) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5, name
    shutil.rmtree(tmp_path / "flower", ignore_errors=True)
