"""`polyrank flower init` and `flwr run`, in real processes: the adapter is that of `polyrank run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from benchmarks.deployment import Simulation, sets

from polyrank.runs import checkpoint
from tests import airtight, writers

SMALL = [
    *("federation.rounds=2", "federation.clients=4", "federation.participation=0.5", "ranks.policy=random"),
    *("data.limit_train=400", "data.limit_test=100", "training.engine=batched", "training.clients_per_pass=1"),
    *("training.precision=float32", "training.attention=sdpa", "training.workers=1"),
]


class Machine(Simulation):
    """Runs commands where nothing can leave, if the system has such a place, and says what tried to.

    Args:
        folder: where they run.
        before: what stands before each command.
        seen: what left, a line each.
    """

    def __init__(self, folder: Path, before: Sequence[str], seen: Path) -> None:
        super().__init__(folder, before)
        self.seen = seen

    def left(self) -> list[str]:
        return self.seen.read_text(encoding="utf-8").splitlines() if self.seen.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    seen = tmp_path / "seen"
    place = nullcontext([]) if airtight.why_not() else airtight.inside(seen)
    with place as before, Machine(tmp_path, before, seen) as made:
        yield made


@pytest.mark.skipif(airtight.why_not() is not None, reason=str(airtight.why_not()))
def test_what_leaves_is_seen(machine: Machine):
    """So that the other test can fail: a connection, and a name that is asked for."""
    machine(
        sys.executable, "-c", "import socket; s = socket.socket(); s.settimeout(0.2); s.connect_ex(('192.0.2.7', 443))"
    )
    ask = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('example.org', 443)"
    machine(sys.executable, "-c", ask)
    assert {"192.0.2.7:443 tcp", "10.77.0.53:53 udp"} <= set(machine.left())


# tests/flower has the same rounds on nodes in this process, with methods of each kernel; README's study is simulated in
# test_readme_commands.py
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", ["flexlora"])
def test_a_simulation_gives_what_a_local_run_gives(machine: Machine, method: str):
    """To 1e-5; and neither run, with the switches set, sends anything away, where the system can tell."""
    chosen = sets([*SMALL, f"aggregation.method={method}"])
    machine("polyrank", "run", "--out", "local", *chosen)
    simulate(machine, *chosen, nodes=4)
    assert machine.left() == []


@pytest.mark.slow
@pytest.mark.long
def test_a_simulation_of_a_model_that_writes(machine: Machine):
    """Without labels; the app says which task the data are of."""
    study = writers.study(machine.folder) / "study.toml"
    chosen = [study, *sets(["data.label="])]
    machine("polyrank", "run", "--out", "local", *chosen)
    simulate(machine, *chosen, nodes=3)
    first, other = (
        [json.loads(line) for line in (machine.folder / name / "metrics.jsonl").read_text("utf-8").splitlines()]
        for name in ("local", "simulated")
    )
    assert [line["round"] for line in first] == [0, 1, 2]
    assert [line["test/loss"] for line in first] == pytest.approx([line["test/loss"] for line in other], rel=1e-5)
    assert machine.left() == []


def simulate(machine: Machine, *chosen: str | Path, nodes: int) -> None:
    """A simulation of what the run ``local`` was of comes to the same adapter."""
    folder = machine.folder
    machine("polyrank", "flower", "init", "app", *chosen, "--out", folder / "simulated")
    said = machine("flwr", "run", ".", "--stream", "--federation-config", f"num-supernodes={nodes}", cwd=folder / "app")
    summary = folder / "simulated" / "summary.json"
    assert summary.is_file(), said
    assert json.loads(summary.read_text(encoding="utf-8"))["rounds"] == 2
    one, other = (checkpoint.load(folder / name / "checkpoint") for name in ("local", "simulated"))
    assert one.ranks == other.ranks
    for (name, ours), (_, theirs) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5, name
