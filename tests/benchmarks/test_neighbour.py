"""The benchmark of busy neighbours: what takes turns with what, and that the neighbours go; no time is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest


def counting() -> int:
    return sum("while True" in " ".join(child.cmdline()) for child in psutil.Process().children())


def test_policies_take_turns_alone_and_beside_a_busy_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from benchmarks import neighbour

    seen = []

    def seconds(policy: str, rounds: int, more: list[str]) -> float:
        assert (rounds, more) == (2, ["training.lr=1e-3"])
        seen.append((policy, counting()))
        return {"settled": 0.5, "passive": 1.0, "active": 2.0}[policy] * (1 + 4 * counting())

    monkeypatch.setattr(neighbour, "seconds", seconds)
    result = tmp_path / "neighbour.json"
    neighbour.main(["--rounds", "2", "--repeats", "2", "--result", str(result), "--set", "training.lr=1e-3"])
    assert seen == [(policy, busy) for policy in ("settled", "passive", "active") for busy in (0, 1)] * 2
    assert counting() == 0
    assert json.loads(result.read_text(encoding="utf-8"))["times"] == {"settled": 5.0, "passive": 5.0, "active": 5.0}
    assert "| 2.00 | 10.00 | 5.00 |" in capsys.readouterr().out
