"""Whole federations over nodes in this process: the result is that of `polyrank.run`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message, MetricRecord

import polyrank
from polyrank.adapter import Adapter
from polyrank.config import Config
from polyrank.errors import ConfigError, FlowerError
from polyrank.federation import checkpoint
from polyrank.flower import make_client_app
from polyrank.flower.messages import ADAPTER, METRICS, REPLY
from polyrank.flower.server import Settings, read_settings, serve
from polyrank.state import ServerState
from tests.federation.conftest import Configure
from tests.flower.conftest import InProcess

QUICK = Settings(wait=1, timeout=5)
METHODS = ("replication", "zero_padding", "flexlora")


def grid(clients: int = 6, **own: Any) -> InProcess:
    return InProcess(make_client_app(), {100 + i: {"partition-id": i, **own} for i in range(clients)})


def anyhow(config: Config) -> Config:
    """The same for any number of clients."""
    return config.model_copy(update={"ranks": config.ranks.model_copy(update={"counts": None})})


def state(folder: Path) -> ServerState:
    return checkpoint.load(folder / "checkpoint")


def apart(one: Adapter, other: Adapter) -> float:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_flower_gives_what_the_local_engine_gives(configure: Configure, tmp_path: Path, method: str):
    config = configure(f"aggregation.method={method}")
    polyrank.run(config, tmp_path / "local")
    summary = serve(grid(), config, replace(QUICK, out=str(tmp_path / "flower")))
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < 1e-5
    here, there = lines(tmp_path / "local"), lines(tmp_path / "flower")
    for one, other in zip(here, there, strict=True):
        assert [one[key] for key in ("clients", "bytes/up", "bytes/down")] == [
            other[key] for key in ("clients", "bytes/up", "bytes/down")
        ]
        assert one["test/loss"] == pytest.approx(other["test/loss"], abs=1e-5)
    assert summary["rounds"] == 3
    assert (tmp_path / "flower" / "adapter" / "adapter_config.json").is_file()


def test_ranks_by_validation(configure: Configure, tmp_path: Path):
    """The paper's policy: every node is scored once, and the ranks are those of a local run."""
    config = configure("ranks.policy=validation", "ranks.validation_per_label=5")
    polyrank.run(config, tmp_path / "local")
    serve(grid(), config, replace(QUICK, out=str(tmp_path / "flower")))
    assert state(tmp_path / "local").ranks == state(tmp_path / "flower").ranks
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < 1e-5


def test_nodes_declare_their_ranks_and_get_no_more(configure: Configure, tmp_path: Path):
    """Of six nodes one has rank 1, three 2 and two 4; each is sent its own rows alone."""
    nodes = grid()
    for node, rank in zip(nodes.contexts, (1, 2, 2, 2, 4, 4), strict=True):
        nodes.contexts[node].node_config["lora-rank"] = rank
    config = configure("federation.participation=1.0", "federation.rounds=1")
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run")))
    assert sorted(state(tmp_path / "run").ranks.values()) == [1, 2, 2, 2, 4, 4]
    trained = [message for message in nodes.sent if message.metadata.message_type == "train"]
    sent = {m.metadata.dst_node_id: m.content.array_records[ADAPTER] for m in trained}
    first = {node: next(a for name, a in record.items() if name.endswith(".a")) for node, record in sent.items()}
    assert [first[100 + i].numpy().shape[0] for i in range(6)] == [1, 2, 2, 2, 4, 4]


def test_data_of_their_own(configure: Configure, tmp_path: Path):
    """Two sites with a file each; the server never sees them, only how many examples of each label there are."""
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=1"))
    table = Path(config.data.train)
    nodes = InProcess(
        make_client_app(),
        {n: {"client": f"site-{n}", "data-train": str(table), "lora-rank": rank} for n, rank in ((1, 2), (2, 4))},
    )
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    assert state(tmp_path / "run").ranks == {"site-1": 2, "site-2": 4}
    clients = json.loads((tmp_path / "run" / "clients.json").read_text(encoding="utf-8"))["clients"]
    assert sum(clients["site-1"]["labels"]) == clients["site-1"]["examples"] > 100


@pytest.mark.parametrize(("wire", "bound"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_the_bytes(configure: Configure, tmp_path: Path, wire: str, bound: float):
    config = configure("training.optimizer=sgd", "training.lr=1e-2")
    polyrank.run(config, tmp_path / "local")
    nodes = grid()
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "flower"), wire=wire))
    assert 0 < apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < bound
    message = next(m for m in nodes.sent if m.metadata.message_type == "train")
    assert {a.numpy().dtype.itemsize for a in message.content.array_records[ADAPTER].values()} == {2}


Change = Callable[[Message], None]


def _arrays(change: Callable[[str, np.ndarray], np.ndarray]) -> Change:
    def changed(reply: Message) -> None:
        record = reply.content.array_records[ADAPTER]
        for name in list(record):
            record[name] = Array(np.ascontiguousarray(change(name, record[name].numpy())))

    return changed


def _first(change: Callable[[Any, str], None]) -> Change:
    return lambda reply: change(reply.content.array_records[ADAPTER], next(iter(reply.content.array_records[ADAPTER])))


def _weight(value: float) -> Change:
    def changed(reply: Message) -> None:
        numbers = dict(reply.content.metric_records[METRICS])
        reply.content[METRICS] = MetricRecord({**numbers, "weight": value})

    return changed


def _another(reply: Message) -> None:
    reply.content[REPLY] = ConfigRecord({**reply.content.config_records[REPLY], "token": "of the round before"})


def _large(record: Any, name: str) -> None:
    record[name].data = bytes(10**9)


def _declared(record: Any, name: str) -> None:
    values = record[name].numpy()
    record[name] = Array(values[:1])
    record[name].shape = values.shape


HOSTILE: dict[str, tuple[Change, str]] = {
    "rank 1": (_arrays(lambda n, v: v[:1] if n.endswith(".a") else v[:, :1] if n.endswith(".b") else v), "shape"),
    "rank 1, declared as more": (_first(_declared), "shape"),
    "B transposed": (_arrays(lambda n, v: v.T if n.endswith(".b") else v), "shape"),
    "a missing key": (_first(lambda record, name: record.pop(name)), "missing tensors"),
    "an extra key": (
        _first(lambda record, name: record.__setitem__("more", record[name])),
        r"unknown ones: \['more'\]",
    ),
    "float64": (_arrays(lambda _, v: v.astype(np.float64)), "bytes|float64"),
    "NaN": (_arrays(lambda _, v: v * np.float32("nan")), "NaN or infinite"),
    "1e30": (_arrays(lambda _, v: v * 0 + np.float32(1e30)), r"holds 1e\+30"),
    "weight 0": (_weight(0.0), "its weight is 0.0"),
    "a negative weight": (_weight(-3.0), "its weight is -3.0"),
    "weight 1e12": (_weight(1e12), "its weight is 1000000000000.0"),
    "1 GB": (_first(_large), "1000000000 bytes"),
    "another round's": (_another, "another request"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_changes_nothing_and_is_named(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    """The other five give the result, as if the sixth had not been asked."""
    change, reason = HOSTILE[kind]
    config = configure("federation.participation=1.0", "federation.rounds=1")
    silent, nodes = grid(), grid()

    def nothing(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError("no reply today")
        return silent.app(message, context)

    def hostile(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == "train":
            change(reply)
        return reply

    silent.changed[103], nodes.changed[103] = nothing, hostile
    serve(silent, config, replace(QUICK, out=str(tmp_path / "silent"), repeats=0))
    with caplog.at_level(logging.WARNING):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), repeats=0))
    assert state(tmp_path / "run").adapter.identical(state(tmp_path / "silent").adapter)
    (line,) = lines(tmp_path / "run")
    assert line["dropped"].keys() == {"client-03"}
    assert re.search(reason, line["dropped"]["client-03"])
    assert any("client-03" in record.getMessage() for record in caplog.records)


def test_too_few_replies_stop_the_run_and_it_goes_on_later(configure: Configure, tmp_path: Path):
    """Round 2 fails twice for want of replies; resumed with all nodes the run ends as if nothing had been."""
    config = configure("federation.participation=1.0")
    polyrank.run(config, tmp_path / "local")
    nodes, settings = grid(), replace(QUICK, out=str(tmp_path / "run"), min_replies=6)
    asked: list[str] = []

    def failing(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            asked.append("train")
            if len(asked) > 1:
                raise RuntimeError("out of memory")
        return nodes.app(message, context)

    nodes.changed[104] = failing
    with pytest.raises(FlowerError, match=r"5 good replies after 2 attempts, expected 6 .*client-04.*out of memory"):
        serve(nodes, config, settings)
    assert len(asked) == 3
    assert state(tmp_path / "run").round == 1
    nodes.changed.clear()
    serve(nodes, config, replace(settings, resume=True))
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "run").adapter) < 1e-5


def test_a_node_that_comes_back_works_again(configure: Configure, tmp_path: Path):
    nodes = grid()
    nodes.absent = {102}
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=2"))

    class Back(polyrank.Listener):
        def on_round(self, metrics: dict[str, Any]) -> None:  # noqa: ARG002
            nodes.absent = set()

    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=5), Back())
    first, second = lines(tmp_path / "run")
    assert first["clients"] == second["clients"] == [f"client-0{i}" for i in (0, 1, 3, 4, 5)]
    nodes.absent = {101}  # one known client is away in the next run, one that was not there before has come
    more = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 3})})
    serve(nodes, more, replace(QUICK, out=str(tmp_path / "run"), min_nodes=5, resume=True))
    assert lines(tmp_path / "run")[2]["clients"] == [f"client-0{i}" for i in (0, 2, 3, 4, 5)]
    assert state(tmp_path / "run").ranks.keys() == {f"client-0{i}" for i in range(6)}


@pytest.mark.parametrize(
    ("own", "overrides", "reason"),
    [
        ({"lora-rank": 9}, (), "declares rank 9, and the global adapter has 4"),
        ({}, ("federation.head=local",), "head would stay with each client"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    configure: Configure, tmp_path: Path, own: dict[str, Any], overrides: tuple[str, ...], reason: str
):
    nodes = grid(**own)
    with pytest.raises((FlowerError, ConfigError), match=reason):
        serve(nodes, configure(*overrides), replace(QUICK, out=str(tmp_path / "run")))
    assert not [message for message in nodes.sent if message.metadata.message_type == "train"]


def test_too_few_nodes(configure: Configure, tmp_path: Path):
    with pytest.raises(FlowerError, match="2 nodes after 0 s, expected 3; start more SuperNodes"):
        serve(grid(2), configure(), replace(QUICK, out=str(tmp_path / "run"), min_nodes=3, wait=0))


def test_the_run_configuration_is_the_federations():
    run: dict[str, Any] = {
        **{"out": "here", "min-nodes": 3, "federation.rounds": 7, "ranks.levels": "[2, 8]"},
        **{"aggregation.method": "flexlora", "evaluation.diagnostics": False},
    }
    settings, config = read_settings(run)
    assert (settings.out, settings.min_nodes, settings.wire) == ("here", 3, "float32")
    assert isinstance(config, Config)
    assert (config.federation.rounds, list(config.ranks.levels), config.aggregation.method) == (7, [2, 8], "flexlora")
    assert config.evaluation.diagnostics is False
    for wrong, said in (
        ({"min-node": 3}, "min-nodes"),
        ({"wire": "int8"}, "int8"),
        ({"resume": "yes"}, "resume is 'yes'"),
        ({"federation.round": 3}, "rounds"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_settings(wrong)
