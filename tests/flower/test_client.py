"""Participants of somebody's own in a ClientApp: what of theirs reaches the server, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from polyrank.config import Config
from polyrank.core.errors import ConfigError, FlowerError
from polyrank.federation.participant import Facts, Participant
from polyrank.flower import client, make_client_app
from polyrank.flower.client import participant
from polyrank.flower.facts import Place
from polyrank.flower.held import NodeConfig
from polyrank.flower.server import serve
from polyrank.training.work import Outcome, Work
from tests.conftest import Configure
from tests.flower.conftest import QUICK, anyhow, lines
from tests.flower.test_own_data import ONE_ROUND, sites


class Around(Participant):
    """A participant of somebody's own: what it does not change is another's."""

    def __init__(self, inner: Participant) -> None:
        self.inner = inner

    def facts(self, client: str) -> Facts:
        return self.inner.facts(client)

    def do(self, work: Work) -> Outcome:
        return self.inner.do(work)


def test_labels_of_another_order_are_refused(configure: Configure, tmp_path: Path):
    """A participant of somebody's own (or a daemon) that names its labels otherwise would learn wrong answers."""
    config = anyhow(configure(*ONE_ROUND))

    class Turned(Around):
        def facts(self, client: str) -> Facts:
            found = super().facts(client)
            return replace(found, names=found.names[::-1])

    def turned(config: Config, node: NodeConfig) -> Participant:
        return Turned(participant(config, node))

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(turned)
    with pytest.raises(
        FlowerError, match=r"the site knows \d of the server's \d labels, in an order of its own; .*data\.labels"
    ):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))


def test_what_fails_in_training_is_told_without_its_text(configure: Configure, tmp_path: Path):
    """A library's error may quote a text; the server is told its kind."""
    config = anyhow(configure(*ONE_ROUND))

    class Failing(Around):
        def do(self, work: Work) -> Outcome:  # noqa: ARG002
            raise ValueError("cannot tokenize: Ann Lee has a fever")

    def failing(config: Config, node: NodeConfig) -> Participant:
        return Failing(participant(config, node))

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(failing)
    with pytest.raises(FlowerError, match=r"the node failed \(ValueError\); its log has the reason") as caught:
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2, repeats=0))
    assert "fever" not in str(caught.value)


def test_why_a_participant_trained_nothing_is_said_on_one_line(configure: Configure, tmp_path: Path):
    """An outcome without tensors is a reply of its own; the other site's counts."""
    config = anyhow(configure(*ONE_ROUND))

    class Out(Around):
        def do(self, work: Work) -> Outcome:
            if work.client == "site-1":
                return Outcome(work.client, problem="no example today\n\x1b[2J" + "x" * 10**4)
            return super().do(work)

    def out(config: Config, node: NodeConfig) -> Participant:
        return Out(participant(config, node))

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(out)
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2, repeats=0))
    (line,) = lines(tmp_path / "run")
    assert line["dropped"].keys() == {"site-1"}
    assert line["dropped"]["site-1"].startswith("it trained nothing: no example today  [2J")
    assert line["dropped"]["site-1"].isprintable()
    assert len(line["dropped"]["site-1"]) < 600


def test_a_participant_that_does_not_look_at_the_clock_is_timed(configure: Configure, tmp_path: Path):
    config = anyhow(configure(*ONE_ROUND))

    class Timeless(Around):
        def do(self, work: Work) -> Outcome:
            return replace(super().do(work), seconds=None)

    def timeless(config: Config, node: NodeConfig) -> Participant:
        return Timeless(participant(config, node))

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(timeless)
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    (line,) = lines(tmp_path / "run")
    assert line["dropped"] == {}
    assert line["train/seconds"] > 0


def test_whom_a_participant_of_somebodys_own_holds_is_not_guessed(configure: Configure):
    """It may call anything ``examples``; with a place alone it is one client."""
    config = configure(*ONE_ROUND)

    class Own(Around):
        examples = ("Ann Lee has a fever", "Bob Ray has none")

    inner = participant(config, {"partition-id": 3})
    assert client.served(Own(inner), {"partition-id": 3}, config) == ("client-3", ["client-3"])
    place, names = client.served(inner, {"partition-id": 3}, config)
    assert (place, names) == (Place(3), ["client-03"])


def test_what_make_site_was_called_is_told():
    with pytest.raises(ConfigError, match=r"make_worker, which is make_site now"):
        make_client_app(make_worker=lambda *_: None)


def test_another_base_is_refused(configure: Configure, tmp_path: Path):
    config = anyhow(configure(*ONE_ROUND))

    def other(config: Config, node: NodeConfig) -> Participant:
        model = config.model.model_copy(update={"targets": ["query"]})
        return participant(config.model_copy(update={"model": model}), node)

    nodes = sites(Path(config.data.train))
    nodes.app = make_client_app(other)
    with pytest.raises(FlowerError, match=r"site-. and the server adapt different modules, such as .*value \("):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
