"""Whole federations over nodes in this process: the result is that of `polyrank.run`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import polyrank
from polyrank.config import Config
from polyrank.core.errors import ConfigError, FlowerError, RunFolderError
from polyrank.flower import make_client_app
from polyrank.flower.server import read_settings, serve
from polyrank.runs import runner
from polyrank.runs.folder import RunFolder
from tests.conftest import Configure
from tests.flower.conftest import QUICK, anyhow, apart, grid, lines, state

METHODS = ("replication", "zero_padding", "flexlora")


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


AROUND = (
    *("aggregation.server=adam", "aggregation.server_lr=0.01", "training.proximal=20", "training.rounds_decay=cosine"),
    *("evaluation.patience=1", "federation.rounds=4"),
)


def test_what_is_around_a_method_is_around_it_here_too(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A server optimiser, a proximal term, a falling rate, and an end after round 2, which is as good as round 1."""
    real = runner.score_global
    monkeypatch.setattr(runner, "score_global", lambda *given: {**real(*given), "accuracy": 0.5})
    polyrank.run(configure(*AROUND), tmp_path / "local")
    with caplog.at_level(logging.INFO):
        summary = serve(grid(), configure(*AROUND), replace(QUICK, out=str(tmp_path / "flower")))
    assert summary["stopped_early"] == 2
    assert "ended early, after round 2 of 4: evaluation.patience" in caplog.text
    here, there = state(tmp_path / "local"), state(tmp_path / "flower")
    assert apart(here.adapter, there.adapter) < 1e-4
    assert here.memory.keys() == there.memory.keys()
    assert {name.split("/")[1] for name in here.memory} == {"m", "v"}
    for name, tensor in here.memory.items():
        torch.testing.assert_close(there.memory[name], tensor, rtol=1e-2, atol=1e-6)


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
    sent = {m.metadata.dst_node_id: m.content.array_records["adapter"] for m in trained}
    first = {node: next(a for name, a in record.items() if name.endswith(".a")) for node, record in sent.items()}
    assert [first[100 + i].numpy().shape[0] for i in range(6)] == [1, 2, 2, 2, 4, 4]


@pytest.mark.parametrize(("wire", "bound"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_the_bytes(configure: Configure, tmp_path: Path, wire: str, bound: float):
    config = configure("training.optimizer=sgd", "training.lr=1e-2")
    polyrank.run(config, tmp_path / "local")
    nodes = grid()
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "flower"), wire=wire))
    for here, there in zip(lines(tmp_path / "local"), lines(tmp_path / "flower"), strict=True):
        assert (here["bytes/up"], here["bytes/down"]) == (2 * there["bytes/up"], 2 * there["bytes/down"])
    assert 0 < apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < bound
    message = next(m for m in nodes.sent if m.metadata.message_type == "train")
    assert {a.numpy().dtype.itemsize for a in message.content.array_records["adapter"].values()} == {2}


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_the_server_multiplies_by_the_frozen_factor_that_the_nodes_have(
    configure: Configure, tmp_path: Path, wire: str
):
    """ffa's A, as it is in the server's state after a round and in the messages to the nodes, to the last bit."""
    nodes = grid()
    config = configure("aggregation.method=ffa", "federation.participation=1.0", "federation.rounds=2")
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), wire=wire))
    after = dict(state(tmp_path / "run").adapter.tensors())
    message = [m for m in nodes.sent if m.metadata.message_type == "train"][-1]
    sent = message.content.array_records["adapter"]
    frozen = [name for name in sent if name.endswith(".a")]
    assert frozen
    for name in frozen:
        values = torch.from_numpy(sent[name].numpy().copy())
        values = values.view(torch.bfloat16).float() if wire == "bfloat16" else values
        assert torch.equal(after[name][: len(values)], values)


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


def test_resuming_names_what_was_changed(configure: Configure, tmp_path: Path):
    """As `polyrank run --resume` does; more rounds, and how clients are trained, may change."""
    settings = replace(QUICK, out=str(tmp_path / "run"))
    serve(grid(), configure("federation.rounds=1"), settings)
    with pytest.raises(RunFolderError, match=r"training\.lr is 0\.005 there and 0.25 here"):
        serve(grid(), configure("federation.rounds=2", "training.lr=0.25"), replace(settings, resume=True))
    with pytest.raises(RunFolderError, match=r"run holds another run; go on with it by resume=true"):
        serve(grid(), configure("federation.rounds=2"), settings)
    serve(grid(), configure("federation.rounds=2"), replace(settings, resume=True))
    assert [line["round"] for line in lines(tmp_path / "run")] == [1, 2]


def test_resuming_names_what_is_not_set_any_more_and_what_is_on_the_way(configure: Configure, tmp_path: Path):
    """A trial on 60 texts is not gone on with as if nothing had been said of them; nor tensors of another dtype."""
    settings = replace(QUICK, out=str(tmp_path / "run"))
    serve(grid(), configure("federation.rounds=1", "data.limit_train=60"), settings)
    with pytest.raises(RunFolderError, match=r"data\.limit_train is 60 there and not set here"):
        serve(grid(), configure("federation.rounds=2"), replace(settings, resume=True))
    more = configure("federation.rounds=2", "data.limit_train=60")
    with pytest.raises(RunFolderError, match="tensors travelled as float32 and would travel as bfloat16"):
        serve(grid(), more, replace(settings, resume=True, wire="bfloat16"))
    serve(grid(), more, replace(settings, resume=True))
    assert [line["round"] for line in lines(tmp_path / "run")] == [1, 2]


def test_a_site_whose_data_are_not_what_they_were_is_named(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its data may grow and are its own: the run goes on, and the log says who has how many examples of each label."""
    sites, nodes = [], grid()
    for i, node in enumerate(nodes.contexts):
        sites.append(tmp_path / f"site-{i}.csv")
        sites[i].write_text("text,label\n" + "an apple,fruit\na cat,pets\n" * (5 + i), encoding="utf-8")
        nodes.contexts[node].node_config = {"client": f"site-{i}", "data-train": str(sites[i])}
    settings, config = replace(QUICK, out=str(tmp_path / "run")), anyhow(configure("federation.rounds=1"))
    serve(nodes, config, settings)
    before = RunFolder(tmp_path / "run").read_json("clients")["clients"]["site-2"]["labels"]
    sites[2].write_text("text,label\n" + "an apple,fruit\na cat,pets\n" * 50, encoding="utf-8")
    nodes.app = make_client_app()  # as nodes that were started again
    more = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 2})})
    with caplog.at_level(logging.WARNING):
        serve(nodes, more, replace(settings, resume=True))
    said = [record.getMessage() for record in caplog.records if "when the run began" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"site-2 had {before} examples of the labels when the run began, and has [")


def test_a_node_that_comes_back_works_again(configure: Configure, tmp_path: Path):
    nodes = grid()
    nodes.absent = {102}
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=2"))

    class Back(polyrank.Listener):
        def on_round(self, metrics: Mapping[str, Any]) -> None:  # noqa: ARG002
            nodes.absent = set()

    serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=5), Back())
    first, second = lines(tmp_path / "run")
    assert first["clients"] == second["clients"] == [f"client-0{i}" for i in (0, 1, 3, 4, 5)]
    nodes.absent = {101}  # one known client is away in the next run, one that was not there before has come
    more = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 3})})
    serve(nodes, more, replace(QUICK, out=str(tmp_path / "run"), min_nodes=5, resume=True))
    assert lines(tmp_path / "run")[2]["clients"] == [f"client-0{i}" for i in (0, 2, 3, 4, 5)]
    assert state(tmp_path / "run").ranks.keys() == {f"client-0{i}" for i in range(6)}


def test_progress_is_in_flowers_log(configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        serve(grid(), configure("federation.rounds=2"), replace(QUICK, out=str(tmp_path / "run")))
    assert "6 clients: 4 of rank 2, 2 of rank 4; aggregation replication" in caplog.text
    found = [record.getMessage() for record in caplog.records if record.getMessage().startswith("[ROUND ")]
    assert len(found) == 2
    assert re.fullmatch(
        r"\[ROUND 2/2\] test accuracy 0\.\d+, test loss \d\.\d+, training loss \d\.\d+, 3 of 3 clients in \d+\.\d s",
        found[1],
    )


@pytest.mark.parametrize(
    ("own", "overrides", "reason"),
    [
        ({"lora-rank": 9}, (), "declares rank 9, and the global adapter has 4"),
        ({}, ("federation.head=local",), "head would stay with each client"),
        ({}, ("aggregation.method=lora_a2",), "with lora_a2 a client chooses the rank indices that it sends"),
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
        ({"min-nodes": 1.5}, "min-nodes is 1.5; expected a whole number of 0 or more"),
        ({"min-replies": -1}, "min-replies is -1"),
        ({"repeats": -1}, "repeats is -1"),
        ({"most-examples": 0}, "most-examples is 0; expected a whole number of 1 or more"),
        ({"wait": float("nan")}, "wait is nan; expected a finite number of 0 or more"),  # which never ends
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": 0}, "timeout is 0; expected a finite number of 0.001 or more"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_settings(wrong)
