"""Sites with files of their own: the server sees how many examples of each label there are, and scores."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import FlowerError
from polyrank.federation.participant import Participant
from polyrank.federation.site import Site
from polyrank.flower import client, make_client_app
from polyrank.flower.client import participant
from polyrank.flower.facts import question
from polyrank.flower.held import NodeConfig
from polyrank.flower.server import serve
from polyrank.training.work import Outcome, Work
from tests.conftest import Configure
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
    do = Site.do

    def done(self: Site, work: Work) -> Outcome:
        outcome = do(self, work)
        assert outcome.scores == self.measured(work.adapter, work.base_change, self.test)
        tested.append(len(self.test))
        return outcome

    monkeypatch.setattr(Site, "do", done)
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


PATIENTS = [f"Patient {name}" for name in ("Ann Lee", "Bob Ray", "Eve Sun")]


def everything(messages: list[Message]) -> str:
    """All that came back, errors too."""
    return " ".join(str(m.error) if m.has_error() else repr(m.content) for m in messages)


@pytest.mark.parametrize("column", ["patient", "by-column", "missing"])
@pytest.mark.parametrize("site", [None, "of its own"])
def test_no_value_of_a_sites_data_leaves_it_that_was_not_sent_first(
    configure: Configure, tmp_path: Path, column: str, site: str | None
):
    """The server names the wrong column: of three patients the site says that it knows 0 labels and 3 are unknown."""
    config = anyhow(configure(*ONE_ROUND))
    rows = Path(config.data.train).read_text(encoding="utf-8").splitlines()
    own = tmp_path / "own.csv"
    lines = [f"{rows[0]},patient", *(f"{row},{PATIENTS[i % 3]}" for i, row in enumerate(rows[1:]))]
    own.write_text("\n".join(lines) + "\n", encoding="utf-8")
    node: dict[str, Any] = {"partition-id": 0, "data-train": str(own)}
    update: dict[str, Any] = {"labels": ["one", "two"], "label": "patient"}
    if column == "missing":
        update |= {"label": "Patient"}
    if column == "by-column":  # the server's configuration has the node read the file, and share it out by patient
        node = {"partition-id": 0}
        names = sorted({row.split(",")[1] for row in rows[1:]})
        update = {"labels": names, "train": str(own), "partition": "by-column", "column": "patient"}
    text = configuration.dump(
        config.model_copy(
            update={
                "data": config.data.model_copy(update=update),
                "federation": config.federation.model_copy(update={"clients": None if column == "by-column" else 2}),
            }
        )
    )
    if site:

        def made(config: Config, node: NodeConfig) -> Participant:
            """Whose own configuration names no labels, as a site's daemon may."""
            data = config.data.model_copy(update={"labels": None})
            return participant(config.model_copy(update={"data": data}), node)

        app = make_client_app(made)
    else:
        app = make_client_app()
    nodes = InProcess(app, {1: node})
    kind, content = question(text)
    nodes.push_messages([Message(content, 1, kind)])
    said = everything(list(nodes.pull_messages(["m0"])))
    assert not [name for name in PATIENTS if name in said or name.split()[1] in said]
    if column == "patient":
        assert re.search(r"\b0 of the site.{0,4}s labels are known to the server and 3 are not", said)
    if column == "by-column":
        assert '"place":0' in said


def test_a_site_says_nothing_to_a_server_that_names_no_labels(configure: Configure):
    nodes = InProcess(make_client_app(), {1: {"partition-id": 0}})
    kind, content = question(configuration.dump(configure()))
    nodes.push_messages([Message(content, 1, kind)])
    assert "the server names no labels" in everything(list(nodes.pull_messages(["m0"])))


@pytest.mark.parametrize("key", ["model", "site-socket", "data-train"])
def test_no_path_of_a_sites_own_leaves_it(configure: Configure, tmp_path: Path, key: str):
    """A folder may be called after a patient or a user; what is wrong is told by its kind."""
    (tmp_path / "Ann Lee").mkdir()
    config = configure(*ONE_ROUND)
    config = config.model_copy(update={"data": config.data.model_copy(update={"labels": ["fruit", "pets"]})})
    nodes = InProcess(make_client_app(), {1: {"partition-id": 0, key: str(tmp_path / "Ann Lee" / "here")}})
    kind, content = question(configuration.dump(config))
    nodes.push_messages([Message(content, 1, kind)])
    said = everything(list(nodes.pull_messages(["m0"])))
    assert re.search(
        r"site.{1,2}s (base|daemon|data) .*\((ModelError|SiteError|DataError)\); its log has the reason", said
    )
    assert "Ann" not in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize("number", [1.5, True, float("inf"), float("nan"), "one", "1.0"])
@pytest.mark.parametrize("key", ["partition-id", "num-partitions"])
def test_a_part_of_a_client_is_no_client(configure: Configure, key: str, number: bool | float | str):
    """``partition-id=1.5`` was client 1."""
    config = configure(*ONE_ROUND)
    node = {"partition-id": 0, key: number, "data-train": str(config.data.train)}
    with pytest.raises(FlowerError, match=f"the node's {key} is .*; expected a whole number"):
        client.served(participant(config, node), node, config)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"data-test": "x.csv"}, "has data-test, expected data-train"),
        ({"evaluate": "yes"}, "evaluate is 'yes'"),
        ({"lora-rank": 4.0}, "its lora-rank is 4.0; expected a whole number of 1 or more"),
        ({"lora-rank": "4"}, "its lora-rank is '4'"),
    ],
)
def test_what_a_node_says_of_itself_must_make_sense(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, own: dict[str, Any], reason: str
):
    nodes = InProcess(make_client_app(), {1: {"client": "client-01", **own}})
    with pytest.raises(FlowerError, match=f"0 nodes after 0 s, expected 1; .*left out: node 1: .*{reason}"):
        serve(nodes, configure(*ONE_ROUND), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1, wait=0))
    assert reason in caplog.text
