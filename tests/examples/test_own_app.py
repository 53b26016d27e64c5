"""The example of an app of one's own, with real PEFT models of three ranks: it runs, and it learns."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from tests.flower.conftest import InProcess, identity

__all__ = ["identity"]

FOLDER = Path(__file__).parents[2] / "examples" / "own_app"
RUN: dict[str, Any] = {"rounds": 3, "rank": 8, "examples": 48, "lr": 2e-2}


def test_clients_of_three_ranks_learn_together(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.syspath_prepend(FOLDER)
    from own_app import client, server

    try:
        nodes = InProcess(client.app, {n: {"partition-id": n, "lora-rank": rank} for n, rank in enumerate((2, 4, 8))})
        for node in nodes.contexts.values():
            node.run_config.update(RUN)
        with caplog.at_level("INFO"):
            server.app(nodes, Context(1, 0, {}, RecordDict(), dict(RUN)))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "own_app"]:
            del sys.modules[name]
    sent = [m.content for m in nodes.sent if m.metadata.message_type == "train"]
    assert [content.config_records["config"]["lora-rank"] for content in sent] == [2, 4, 8] * 3
    losses = [float(found) for found in re.findall(r"'train_loss': ([0-9.]+)", caplog.text)]
    assert len(losses) == 3
    assert losses[2] < losses[0]
    assert not [record for record in caplog.records if "left out" in record.getMessage()]
