"""Runs that are stopped, and what two of them have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyrank.config import Config
from polyrank.core.state import ServerState
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from tests.runs.doubles import Stop


def final(folder: Path) -> ServerState:
    return checkpoint.load(folder / "checkpoint")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [line | {"seconds": 0} for line in RunFolder(folder).read_metrics()]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = final(one), final(other)
    assert a.adapter.identical(b.adapter)
    assert (a.round, a.ranks, a.scales, a.seed) == (b.round, b.ranks, b.scales, b.seed)
    assert a.personal.keys() == b.personal.keys()
    for client, own in a.personal.items():
        assert own.keys() == b.personal[client].keys()
        assert all(own[name].equal(b.personal[client][name]) for name in own)
    assert (a.base_change is None) == (b.base_change is None)
    assert a.base_change is None or a.base_change.identical(b.base_change)
    assert metrics(one) == metrics(other)
    for file in ("config.toml", "clients.json", "adapter/adapter_model.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    of_the_process = {"seconds": 0, "memory/peak": 0, "tokens/second": 0}
    summaries = [RunFolder(folder).read_json("summary") | of_the_process for folder in (one, other)]
    assert summaries[0] == summaries[1]


def interrupt(config: Config, folder: Path, *, resume: bool = False, **when: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, resume=resume, listener=Stop(**when))
