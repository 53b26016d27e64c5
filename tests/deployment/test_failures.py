"""What a deployment outlives, and whom it does not let in; SuperLink and ServerApp are killed in mid-round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.deployment import Processes

from polyrank import config as configuration
from polyrank.runs.runner import run
from polyrank.site.certificates import make
from tests.deployment.world import CLIENTS, SMALL, Federation, lines, running, same, state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("durable")
    with Processes(folder / "logs") as processes:
        yield Federation(folder, processes, durable=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "run"
    run(configuration.load(None, SMALL), folder)
    return folder


def in_the_second_round(federation: Federation, out: Path) -> None:
    federation.wait(lambda: len(lines(out)) == 1, 300, "no first round")
    federation.wait(lambda: running("flwr-clientapp", federation.nodes[2].pid), 300, "no second round")


@pytest.mark.long
def test_the_superlink_is_killed_and_the_run_goes_on(federation: Federation, expected: Path):
    """It is started again with its database: no reply is lost, and nobody notices."""
    out, number = federation.begin("link")
    in_the_second_round(federation, out)
    federation.processes.kill(federation.deployment.link)
    federation.deployment.start_link()
    federation.ended(out)
    assert [line["dropped"] for line in lines(out)] == [{}, {}]
    same(state(expected), state(out))
    federation.wait(
        lambda: federation.deployment.status(number) == "finished:completed", 60, "the run is not said to be complete"
    )


def test_the_serverapp_is_killed_and_its_run_resumed(federation: Federation, expected: Path):
    """The run has failed for Flower; a new one with resume=true goes on with the second round."""
    out, number = federation.begin("app")
    in_the_second_round(federation, out)
    killed = running("flwr-serverapp")
    for process in killed:
        process.kill()
    assert killed
    federation.wait(
        lambda: federation.deployment.status(number).startswith("finished:fail"),
        300,
        "the run is not said to have failed",
    )
    assert len(lines(out)) == 1
    federation.begin("app", resume=True)
    federation.ended(out)
    assert [line["round"] for line in lines(out)] == [1, 2]
    same(state(expected), state(out))


def test_a_sites_daemon_is_killed_and_started_again(federation: Federation):
    """Its node says so, the round counts without it, and a later one has it again."""
    out, _ = federation.begin("site", "federation.rounds=5")
    federation.wait(lambda: len(lines(out)) == 1, 300, "no first round")
    federation.processes.kill(federation.sites[0])
    federation.wait(lambda: len(lines(out)) == 2, 300, "no second round")
    federation.sites[0] = federation.start_site(0)
    federation.ended(out)
    second, last = lines(out)[1], lines(out)[-1]
    assert second["dropped"].keys() == {CLIENTS[0]}
    assert "daemon" in second["dropped"][CLIENTS[0]]
    assert last["dropped"] == {}


def test_an_unregistered_key_and_a_wrong_authority_are_refused(federation: Federation, tmp_path: Path):
    """Neither becomes a node; the others stay."""
    make(tmp_path / "tls", nodes=1)
    deployment = federation.deployment
    deployment.tls.joinpath("node9").write_bytes((tmp_path / "tls" / "node0").read_bytes())
    deployment.tls.joinpath("node9").chmod(0o600)
    unknown = deployment.node(9, "lora-rank=5")
    federation.wait(lambda: unknown.poll() is not None, 60, "the unregistered key was not refused")
    assert unknown.returncode != 0
    other = deployment.node(2, "lora-rank=5", tmp_path / "tls" / "ca.crt")
    federation.wait(
        lambda: "certificate" in federation.processes.said(other).lower(), 60, "the wrong authority was not noticed"
    )
    assert deployment.online() == 3
    federation.processes.end(other)
