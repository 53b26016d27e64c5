"""One participant per process, for all nodes that it cannot tell apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from ray import cloudpickle

from polyrank.federation import loading
from polyrank.federation.site import Site
from polyrank.flower import make_client_app
from polyrank.flower.held import NodeConfig, Watched, participant
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, InProcess


class Own:
    """As far as a participant is needed here; it looks at the node's configuration when it is asked."""

    def __init__(self, text: str, node: NodeConfig) -> None:
        self.text, self.node = text, node

    def looked_at(self, key: str) -> Any:
        return self.node.get(key)


def test_a_participant_is_for_all_nodes_that_say_the_same_where_it_looked():
    made: list[int] = []

    def make(text: str, node: NodeConfig) -> Any:
        made.append(int(node.get("gpu", 0)))
        return Own(text, node)

    def held(text: str, node: dict[str, Any], app: str = "app") -> Any:
        return participant(app, make, text, node)

    first = held("a", {"partition-id": 0})
    assert held("a", {"partition-id": 1}) is first
    assert held("a", {"partition-id": 2, "gpu": 1}) is not first
    assert held("b", {"partition-id": 2, "gpu": 1}).text == "b"
    assert made == [0, 1, 1]
    late = held("b", {"gpu": 1, "partition-id": 2})
    assert late.looked_at("partition-id") == 2  # from now on it counts, as what it was made from
    assert held("b", {"gpu": 1, "partition-id": 3}) is not late
    assert held("b", {"gpu": 1, "partition-id": 3}, app="another") is not held("b", {"gpu": 1, "partition-id": 3})


@pytest.mark.parametrize("look", [dict, len, sorted])
def test_who_looks_at_all_of_it_is_told_from_all_others(look: Any):
    watched = Watched({"partition-id": 0})
    assert watched.agrees({"partition-id": 1})
    look(watched)
    assert watched.agrees({"partition-id": 0})
    assert not watched.agrees({"partition-id": 1})


def test_a_key_that_is_missing_was_looked_at_too():
    watched = Watched({})
    assert "data-train" not in watched
    assert not watched.agrees({"data-train": "a.csv"})


def test_base_and_data_are_loaded_once_for_all_nodes_of_a_process(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Six nodes in turn, asked once and then trained in two rounds: one load, and not eighteen.

    Ray copies the app for every message, so what the app itself kept would be lost.
    """
    loads: list[None] = []
    load = loading.participant

    def counted(config: Any) -> Site:
        loads.append(None)
        return load(config)

    monkeypatch.setattr(loading, "participant", counted)
    app = make_client_app()

    def copied(message: Message, context: Context) -> Message:
        again: ClientApp = cloudpickle.loads(cloudpickle.dumps(app))
        return again(message, context)

    nodes = InProcess(app, {100 + i: {"partition-id": i, "num-partitions": 6} for i in range(6)})
    nodes.changed = dict.fromkeys(nodes.contexts, copied)
    config = configure("federation.participation=1.0", "federation.rounds=2")
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run")))
    assert len(loads) == 1
