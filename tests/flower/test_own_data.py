"""Sites with files of their own: the server sees how many examples of each label there are, and scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyrank.config import Config
from polyrank.errors import FlowerError
from polyrank.flower import make_client_app
from polyrank.flower.client import NodeConfig, worker
from polyrank.flower.server import serve
from polyrank.site.worker import LocalWorker, Worker
from tests.federation.conftest import Configure
from tests.flower.conftest import QUICK, InProcess, anyhow, lines, state

ONE_ROUND = ("federation.participation=1.0", "federation.rounds=1")


def sites(table: Path, *, two: Path | None = None, **own: Any) -> InProcess:
    """Ranks 2 and 4."""
    held = {1: table, 2: two or table}
    configurations = {n: {"client": f"site-{n}", "data-train": str(held[n]), "lora-rank": 2 * n, **own} for n in (1, 2)}
    return InProcess(make_client_app(), configurations)


def test_data_of_their_own(configure: Configure, tmp_path: Path):
    config = anyhow(configure(*ONE_ROUND, "data.limit_train=100"))  # of the server's data, not of the sites'
    nodes = sites(Path(config.data.train))
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    assert state(tmp_path / "run").ranks == {"site-1": 2, "site-2": 4}
    clients = json.loads((tmp_path / "run" / "clients.json").read_text(encoding="utf-8"))["clients"]
    assert sum(clients["site-1"]["labels"]) == clients["site-1"]["examples"] == 192


def test_what_is_sent_is_scored_in_the_training_message(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before training: what comes back is one message, its scores are those of the adapter that was sent."""
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=2", "training.lr=1e-1"))
    other = tmp_path / "test.csv"
    rows = Path(config.data.train).read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([rows[0], *rows[-30:]]) + "\n", encoding="utf-8")
    nodes = sites(Path(config.data.train), **{"data-test": str(other)})
    tested: list[int] = []
    scored = LocalWorker.score

    def score(self: LocalWorker, *args: Any) -> Any:
        tested.append(len(self.federation.test))
        return scored(self, *args)

    monkeypatch.setattr(LocalWorker, "score", score)
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    assert tested == [30] * 4
    first, second = lines(tmp_path / "run")
    for line in (first, second):
        assert line["own/accuracy_by_client"].keys() == {"site-1", "site-2"}
        assert line["own/accuracy"] == pytest.approx(sum(line["own/accuracy_by_client"].values()) / 2)
        assert 0 <= line["own/macro_f1"] <= 1
    assert first["own/accuracy_by_client"]["site-1"] == first["own/accuracy_by_client"]["site-2"]  # B is still zero
    assert first["own/loss"] != second["own/loss"]
    assert {m.metadata.message_type for m in nodes.sent} == {"query", "train"}


def test_scores_are_the_nodes_choice(configure: Configure, tmp_path: Path):
    config = anyhow(configure(*ONE_ROUND))
    serve(
        sites(Path(config.data.train), evaluate=False), config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2)
    )
    assert not [key for key in lines(tmp_path / "run")[0] if key.startswith("own/")]


def test_a_site_may_lack_a_label(configure: Configure, tmp_path: Path):
    """Its file does not have it, and it still counts labels as the server does."""
    config = anyhow(configure(*ONE_ROUND))
    rows = Path(config.data.train).read_text(encoding="utf-8").splitlines()
    names = sorted({row.split(",")[1] for row in rows[1:]})
    less = tmp_path / "less.csv"
    less.write_text("\n".join([rows[0], *(r for r in rows[1:] if r.split(",")[1] != names[0])]) + "\n", "utf-8")
    serve(sites(Path(config.data.train), two=less), config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    clients = json.loads((tmp_path / "run" / "clients.json").read_text(encoding="utf-8"))["clients"]
    assert clients["site-2"]["labels"][0] == 0 < min(clients["site-2"]["labels"][1:])


def test_labels_of_another_order_are_refused(configure: Configure, tmp_path: Path):
    """A worker of the site's own (or a daemon) that names its labels otherwise would be trained on wrong answers."""
    config = anyhow(configure(*ONE_ROUND))

    class Turned(LocalWorker):
        def facts(self, client: str) -> Any:
            found = super().facts(client)
            return replace(found, names=found.names[::-1])

    def turned(config: Config, node: NodeConfig) -> Worker:
        own = worker(config, node)
        assert isinstance(own, LocalWorker)
        return Turned(own.federation)

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(turned)
    with pytest.raises(FlowerError, match=r"site-. counts the labels .*; give all of them the same data\.labels"):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))


def test_another_base_is_refused(configure: Configure, tmp_path: Path):
    config = anyhow(configure(*ONE_ROUND))

    def other(config: Config, node: NodeConfig) -> Worker:
        return worker(config.model_copy(update={"model": config.model.model_copy(update={"targets": ["query"]})}), node)

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(other)
    with pytest.raises(FlowerError, match=r"site-. and the server adapt different modules, such as .*value \("):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))


@pytest.mark.parametrize(
    ("own", "reason"),
    [({"data-test": "x.csv"}, "has data-test, expected data-train"), ({"evaluate": "yes"}, "evaluate is 'yes'")],
)
def test_what_a_node_says_of_itself_must_make_sense(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, own: dict[str, Any], reason: str
):
    nodes = InProcess(make_client_app(), {1: {"client": "client-01", **own}})
    with pytest.raises(FlowerError, match=f"0 nodes after 0 s, expected 1; .*left out: node 1: .*{reason}"):
        serve(nodes, configure(*ONE_ROUND), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1, wait=0))
    assert reason in caplog.text
