"""A deployment over TLS with keys gives what a local run gives, and outlives the death of a node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.deployment import Processes

from polyrank import config as configuration
from polyrank.runs.runner import run
from tests import airtight
from tests.deployment.world import CLIENTS, SMALL, Federation, lines, running, same, state

pytestmark = pytest.mark.slow

METHOD = "flexlora"
"""Beside the first test's replication."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("deployment")
    with Processes(folder / "logs") as processes:
        yield Federation(folder, processes)


def local(folder: Path, *sets: str) -> Path:
    run(configuration.load(None, [*SMALL, *sets]), folder / "local")
    return folder / "local"


@pytest.mark.skipif(
    airtight.why_not() is None and airtight.HERE not in os.environ,
    reason="tests/deployment/test_offline.py runs it, where it is seen that nothing leaves",
)
def test_a_deployment_gives_what_a_local_run_gives_and_a_killed_node_comes_back(federation: Federation, tmp_path: Path):
    """Two rounds as everywhere. In the third, a node is killed while it trains: the round counts, and the node, started
    again with its key, is the same client in a later one."""
    out, _ = federation.begin("run", "federation.rounds=5")
    expected = state(local(tmp_path))
    federation.wait(lambda: len(lines(out)) == 2, 300, "no second round")
    federation.wait(lambda: state(out).round == 2, 10, "no second checkpoint")
    same(expected, state(out))
    federation.wait(lambda: running("flwr-clientapp", federation.nodes[2].pid), 60, "the third node did not train")
    federation.processes.kill(federation.nodes[2])
    federation.wait(lambda: len(lines(out)) == 3, 110, "the third round did not end")
    federation.restart_node(2)
    federation.ended(out)
    found = lines(out)
    assert [line["clients"] for line in found] == [CLIENTS] * 5
    assert [line["dropped"] for line in found[:2]] == [{}, {}]
    assert found[2]["dropped"].keys() == {CLIENTS[2]}
    assert "Node Unavailable" in found[2]["dropped"][CLIENTS[2]]
    assert found[4]["dropped"] == {}
    assert state(out).round == 5


@pytest.mark.long
def test_another_method_too(federation: Federation, tmp_path: Path):
    chosen = f"aggregation.method={METHOD}"
    out, _ = federation.begin(METHOD, chosen)
    expected = state(local(tmp_path, chosen))
    federation.ended(out)
    same(expected, state(out))
