"""A site's socket with a model that writes, behind Flower's nodes: what it trains is what nodes with the file train."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.federation.loading import participant
from polyrank.federation.participant import Participant
from polyrank.flower import make_client_app
from polyrank.flower.server import serve
from polyrank.runs.folder import RunFolder
from polyrank.site.address import listening
from polyrank.site.daemon import attend
from tests import writers
from tests.flower.conftest import QUICK, InProcess, anyhow, apart, identity, lines, state

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
__all__ = ["identity"]


def test_a_site_without_labels(tmp_path: Path, private: Path):
    """With columns of other names; it scores what it is sent, and its rows that are no examples are counted."""
    study = writers.study(tmp_path) / "study.toml"
    rows = [{"q": row["prompt"], "a": row["completion"]} for row in writers.pairs(24)]
    table = writers.write(tmp_path / "own.jsonl", [*rows, {"q": "Hi", "a": "red " * 60}])
    tests = writers.write(tmp_path / "test.jsonl", rows[:5])
    sets = [f"data.train={table}", f"data.test={tests}", "data.prompt=q", "data.completion=a", "data.label="]
    site = participant(configuration.load(study, [*sets, "federation.clients=1"]))  # and no column of owners
    by_socket = {"site-socket": str(private / "site.sock")}
    by_file = {"data-train": str(table), "data-test": str(tests), "data-prompt": "q", "data-completion": "a"}
    attended(private / "site.sock", site)
    for name, own in (("socket", by_socket), ("file", by_file)):
        nodes = InProcess(make_client_app(), {n: node(n, own) for n in (1, 2)})
        config = anyhow(configuration.load(study))
        serve(nodes, config, replace(QUICK, out=str(tmp_path / name), min_nodes=2, timeout=60))
    assert apart(state(tmp_path / "socket").adapter, state(tmp_path / "file").adapter) < 1e-6
    first, other = ([line.get("own/loss") for line in lines(tmp_path / name)] for name in ("socket", "file"))
    assert first[0] is None
    assert first[1:] == pytest.approx(other[1:], rel=1e-5)
    clients = [RunFolder(tmp_path / name).read_json("clients") for name in ("socket", "file")]
    assert clients[0] == clients[1]
    assert [list(client["left_out"].values()) for client in clients[0]["clients"].values()] == [[1], [1]]


def attended(path: Path, site: Participant) -> None:
    """Answer at a socket from now on, as the daemon does, until the process of the tests ends."""
    ready = threading.Event()

    def run() -> None:
        with suppress(OSError), listening(path) as listener:
            ready.set()
            while True:
                connection, _ = listener.accept()
                with connection:
                    attend(connection, site, lambda _: None, 5)

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(5)


def node(number: int, own: Mapping[str, str]) -> dict[str, str | int]:
    return {"client": f"own-{number}", "lora-rank": 2 * number, **own}
