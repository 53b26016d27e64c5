"""Nodes that are too many, too few or hostile: none ends the server, and each is named."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

import polyrank
from polyrank.config import RanksConfig
from polyrank.core.errors import FlowerError
from polyrank.flower import RankStrategy, make_client_app
from polyrank.flower.facts import RECORD
from polyrank.flower.nodes import Nodes, exchange
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, Answer, InProcess, anyhow, apart, grid, lines, state
from tests.flower.test_strategy import client as plain_client
from tests.flower.test_strategy import initial

ALL = ("federation.participation=1.0", "federation.rounds=1")


class InMemoryGrid(InProcess):
    """Called as Flower's of a simulation, by which that is known."""


def simulated(nodes: int) -> InMemoryGrid:
    """As Flower configures them."""
    own = {100 + i: {"partition-id": i, "num-partitions": nodes} for i in range(nodes)}
    return InMemoryGrid(make_client_app(), own)


@pytest.mark.parametrize("nodes", [1, 2, 4, 9])
def test_any_number_of_simulated_nodes_serves_all_clients(configure: Configure, tmp_path: Path, nodes: int):
    """Six clients on one node, on two (three each), on four (2, 2, 1, 1), and on nine, of which three have none."""
    config = configure(*ALL)
    polyrank.run(config, tmp_path / "local")
    found = simulated(nodes)
    start = time.monotonic()
    serve(found, config, replace(QUICK, out=str(tmp_path / "run"), wait=60))
    assert time.monotonic() - start < 60
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "run").adapter) < 1e-5
    trained = [m.metadata.dst_node_id for m in found.sent if m.metadata.message_type == "train"]
    assert [sum(node == 100 + i for node in trained) for i in range(nodes)] == [
        len(range(i, 6, nodes)) for i in range(nodes)
    ]


def test_a_simulation_of_too_few_nodes_says_at_once_what_to_type(configure: Configure, tmp_path: Path):
    start = time.monotonic()
    typed = r"2 nodes in this simulation, expected 5; start it with more: flwr run .* 'num-supernodes=5'"
    with pytest.raises(FlowerError, match=typed):
        serve(simulated(2), configure(*ALL), replace(QUICK, out=str(tmp_path / "run"), min_nodes=5, wait=60))
    assert time.monotonic() - start < 30
    few = InMemoryGrid(plain_client(), {11: {}, 12: {}})
    with pytest.raises(FlowerError, match="'num-supernodes=3'"):
        RankStrategy(min_available_nodes=3).start(few, initial(), num_rounds=1, timeout=60)
    assert time.monotonic() - start < 30


def test_a_simulation_whose_nodes_are_refused_says_why_at_once(configure: Configure, tmp_path: Path):
    nodes = simulated(2)
    nodes.contexts[101].node_config["lora-rank"] = 9
    with pytest.raises(FlowerError, match=r"expected 6 clients \(left out: node 101: it declares rank 9.*; mend that"):
        serve(nodes, configure(*ALL), replace(QUICK, out=str(tmp_path / "run"), wait=60))


def lying(**parts: Any) -> Answer:
    """A node that says of itself what it likes."""
    app = make_client_app()

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "query":
            said = json.loads(str(reply.content.config_records[RECORD]["about"]))
            reply.content[RECORD] = ConfigRecord({"about": json.dumps({**said, **parts})})
        return reply

    return answer


NOT_A_RECORD: Answer = lambda message, _: Message(RecordDict(), reply_to=message)  # noqa: E731
LIARS = {
    "a rank above all": (lying(rank=10**18), r"declares rank 10+, and the global adapter has 4"),
    "a rank below 1": (lying(rank=0), "rank"),
    "another base": (lying(shapes={"q": [1, 1]}), "adapt different modules"),
    "another client's place": (lying(place=1), "another node is 'client-01' already"),
    "a place too far": (lying(place=10**18), "serves 1 clients, and 0"),
    "more examples than anybody": (lying(clients=[{"examples": 10**9, "labels": [10**9, 0]}]), "at most 10000000"),
    "other data": (lying(clients=[{"examples": 3, "labels": [2, 1]}]), "other data than the server's"),
    "labels of its own": (lying(clients=[{"examples": 3, "labels": [1, 1, 1]}]), "counts 3 labels, the server has 2"),
    "data of its own": (
        lying(client="stranger", place=None),
        "it has data of its own, and the nodes before it have clients of the configuration",
    ),
    "a terminal's commands": (lying(shapes={"\x1b[2J\nall is well": [4, 4]}), r"such as  \[2J all is well \(4, 4\)"),
    "a key of commands": (lying(**{"\x1b[2J\n": 1}), r"read:  \[2J : Extra"),
    "nothing": (NOT_A_RECORD, "cannot be read: KeyError"),
}


def test_a_node_with_other_weights_of_the_same_shapes_is_named(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It may be a copy that was saved anew, so it takes part; the five that hold the server's own are not named."""
    nodes = grid()
    nodes.changed[105] = lying(base={"model's weights": "0" * 12, "vocabulary": "1" * 12})
    serve(nodes, anyhow(configure(*ALL)), replace(QUICK, out=str(tmp_path / "run")))
    told = [record.getMessage() for record in caplog.records if "has a base whose" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("client-05 has a base whose model's weights and vocabulary differ from the server's")
    assert len(lines(tmp_path / "run")[0]["clients"]) == 6


@pytest.mark.parametrize("kind", LIARS)
def test_a_node_that_lies_of_itself_is_left_out_and_the_others_go_on(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    """Five of six take part, as if the sixth were not there."""
    answer, reason = LIARS[kind]
    nodes = grid()
    nodes.changed[105] = answer
    config = anyhow(configure(*ALL))
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=5))
    assert lines(tmp_path / "run")[0]["clients"] == [f"client-0{i}" for i in range(5)]
    assert "node 105 is left out" in caplog.text
    assert re.search(reason, caplog.text)
    assert all(record.getMessage().isprintable() for record in caplog.records if "left out" in record.getMessage())


def test_a_rank_that_the_method_cannot_do_with_is_left_out(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    nodes = grid()
    nodes.contexts[102].node_config["lora-rank"] = 2
    config = configure(*ALL, "aggregation.method=fedavg", "ranks.levels=[4]", "ranks.counts=[6]")
    serve(nodes, anyhow(config), replace(QUICK, out=str(tmp_path / "run"), min_nodes=5))
    assert "it declares rank 2, and fedavg needs equal ranks, 4 each" in caplog.text
    assert set(state(tmp_path / "run").ranks.values()) == {4}


class Broken(InProcess):
    """A reply that Flower itself cannot put together, as its grid of a deployment does it: it raises for all."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        broken = [name for name in asked if self.sent[int(name[1:])].metadata.dst_node_id == 12]
        found = super().pull_messages(asked)
        if broken:
            raise ValueError("Unexpected format for object head.")
        return found


def test_a_reply_that_flower_cannot_read_is_one_nodes_failure():
    nodes = Broken(plain_client(), {11: {"lora-rank": 1}, 12: {"lora-rank": 2}, 13: {"lora-rank": 4}})
    requests = {n: Message(RecordDict(), n, "query.rank", ttl=1) for n in (11, 12, 13)}
    found = exchange(nodes, requests, 1)
    assert [isinstance(found[n], Message) for n in (11, 12, 13)] == [True, False, True]
    assert str(found[12]) == "its reply cannot be put together: ValueError: Unexpected format for object head."


def test_what_a_node_says_of_its_failure_is_cut_to_a_line():
    nodes = InProcess(plain_client(), {11: {}})

    def shouting(*_: Any) -> Message:
        raise RuntimeError("a\nb" * 10**6)

    nodes.changed[11] = shouting
    (error,) = exchange(nodes, {11: Message(RecordDict(), 11, "query.rank", ttl=1)}, 1).values()
    assert isinstance(error, FlowerError)
    assert len(str(error)) < 600
    assert str(error).isprintable()


def test_nodes_that_come_later_end_no_run():
    """Two are counted for; the third, of no place, gets the lowest level, and the one of a rank of its own keeps it."""
    own: dict[int, dict[str, Any]] = {11: {}, 12: {}, 13: {}, 14: {"lora-rank": 3}}
    nodes = InProcess(plain_client(), own)
    nodes.absent = {13, 14}
    strategy = RankStrategy(ranks=RanksConfig(policy="fixed", levels=[2, 4], counts=[1, 1]))

    def evaluate(number: int, _: Any) -> None:
        nodes.absent = set() if number else nodes.absent

    strategy.start(nodes, initial(), num_rounds=2, timeout=5, evaluate_fn=evaluate)
    assert strategy.state is not None
    assert strategy.state.ranks == {"11": 4, "12": 2, "13": 2, "14": 3}


def test_a_node_may_have_several_clients_and_goes_with_all_of_them(configure: Configure, tmp_path: Path):
    nodes = simulated(2)
    members = Nodes(nodes, None, lambda *_: [], 1)
    members.refresh()
    assert list(members.here()) == ["100", "101"]
    nodes.absent = {101}
    assert list(members.here()) == ["100"]
    serve(nodes, anyhow(configure(*ALL)), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1))
    assert lines(tmp_path / "run")[0]["clients"] == ["client-00", "client-02", "client-04"]
