"""Models that write, over nodes in this process: with kinds and without, on the federation's data and on their own."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import polyrank
from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import FlowerError
from polyrank.federation import loading
from polyrank.flower import make_client_app
from polyrank.flower.own_data import participant
from polyrank.flower.server import serve
from polyrank.runs.folder import RunFolder
from polyrank.tasks.causal_lm.task import TOO_LONG
from tests import writers
from tests.flower.conftest import QUICK, InProcess, anyhow, apart, grid, lines, state
from tests.writers import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """`study("data.label=")`: three owners of questions and answers of two kinds, on a tiny Llama, two rounds."""
    return Study(tmp_path_factory.mktemp("writing"))


def clients_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = RunFolder(folder).read_json("clients")["clients"]
    return found


@pytest.mark.parametrize("label", ["kind", ""], ids=["kinds", "no labels"])
def test_flower_gives_what_the_local_engine_gives(study: Study, tmp_path: Path, label: str):
    """Adapter, all that is measured, round 0 and samples; kinds are counted where there are some."""
    config = study(f"data.label={label}")
    here = polyrank.run(config, tmp_path / "local")
    there = serve(grid(3), config, replace(QUICK, out=str(tmp_path / "flower")))
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < 1e-6
    measured = [[line["test/perplexity"] for line in lines(tmp_path / name)] for name in ("local", "flower")]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)
    assert len(measured[0]) == 3
    assert clients_of(tmp_path / "local") == clients_of(tmp_path / "flower")
    assert all(("labels" in client) == bool(label) for client in clients_of(tmp_path / "flower").values())
    assert ("test/loss_by_kind" in there) == bool(label)
    samples = [RunFolder(tmp_path / name).read_json("samples") for name in ("local", "flower")]
    assert samples[0] == samples[1]
    for name in ("constant/loss", "constant/perplexity", "constant/of"):
        assert here[name] == there[name]
    assert there["constant/of"] == "training"


def test_one_kind_is_enough(study: Study, tmp_path: Path):
    """It went to the nodes as the only label, which a classifier could not learn."""
    rows = [{**row, "kind": "all"} for row in writers.pairs()]
    config = study(f"data.train={writers.write(tmp_path / 'one.jsonl', rows)}", "federation.rounds=1")
    serve(grid(3), config, replace(QUICK, out=str(tmp_path / "run")))
    assert clients_of(tmp_path / "run")["site-0"]["labels"] == [clients_of(tmp_path / "run")["site-0"]["examples"]]


def own(folder: Path, names: dict[str, str], count: int = 24) -> Path:
    """A site's file, whose columns have other names."""
    rows = [{names.get(key, key): value for key, value in row.items()} for row in writers.pairs(count)]
    return writers.write(folder, rows)


def test_sites_with_files_of_their_own(study: Study, tmp_path: Path):
    """Other column names, other formats; what each measures of what it was sent; what is left out, by client."""
    ours = own(tmp_path / "a.jsonl", {"prompt": "asked", "completion": "told", "kind": "sort"})
    turns = [
        {"talk": [{"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": row["completion"]}]}
        for row in writers.pairs(24)
    ]
    long = {"talk": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "red " * 60}]}
    theirs = writers.write(tmp_path / "b.jsonl", [*turns, long, long])
    texts = writers.write(tmp_path / "c.jsonl", [{"body": row["prompt"], "prompt": 1} for row in writers.pairs(24)])
    nodes = {
        1: {"data-train": str(ours), "data-prompt": "asked", "data-completion": "told", "data-label": "sort"},
        2: {"data-train": str(theirs), "data-messages": "talk", "data-test": str(texts), "data-format": "messages"},
        3: {"data-train": str(texts), "data-text": "body"},
    }
    del nodes[2]["data-test"]
    config = study("data.prompt=prompt", "data.completion=completion")
    made = InProcess(make_client_app(), {n: {"client": f"own-{n}", **node} for n, node in nodes.items()})
    summary = serve(made, config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=3))
    found = clients_of(tmp_path / "run")
    assert {name: client["examples"] for name, client in found.items()} == {"own-1": 19, "own-2": 19, "own-3": 19}
    assert found["own-1"]["labels"] == [9, 10]
    assert "labels" not in found["own-2"]
    assert "labels" not in found["own-3"]
    untrained, first, second = lines(tmp_path / "run")
    assert not [key for key in untrained if key.startswith("own/")]
    for line in (first, second):
        assert line["own/loss_by_client"].keys() == {"own-1", "own-2", "own-3"}
        assert line["own/loss"] == pytest.approx(sum(line["own/loss_by_client"].values()) / 3)
        assert line["own/perplexity"] > 1
        assert 0 <= line["own/token_accuracy"] <= 1
    assert second["own/loss"] < first["own/loss"]
    assert summary["constant/of"] == "test"  # whatever the server's own training data are, nobody trains on them


def test_rows_that_a_site_leaves_out_are_counted_by_the_server(study: Study, tmp_path: Path):
    rows = [*writers.pairs(24), *({"prompt": "Hi", "completion": "red " * 60} for _ in range(3))]
    nodes = InProcess(
        make_client_app(),
        {
            1: {"client": "own-1", "data-train": str(writers.write(tmp_path / "a.jsonl", rows))}
            | {"data-test": str(writers.write(tmp_path / "test.jsonl", writers.pairs(4)[:3]))},
        },
    )
    serve(nodes, anyhow(study()), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1))
    assert clients_of(tmp_path / "run")["own-1"]["left_out"] == {TOO_LONG: 3}
    assert clients_of(tmp_path / "run")["own-1"]["examples"] == 24


def test_kinds_that_the_server_does_not_know_hinder_nobody(study: Study, tmp_path: Path):
    """Nothing is learned of them; the site counts none, and says none."""
    rows = [{**row, "kind": f"Patient {i // 4}"} for i, row in enumerate(writers.pairs(12))]
    node = {"client": "a", "data-train": str(writers.write(tmp_path / "a.jsonl", rows)), "data-label": "kind"}
    nodes = InProcess(make_client_app(), {1: node})
    serve(nodes, anyhow(study()), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1))
    assert "labels" not in clients_of(tmp_path / "run")["a"]
    assert "Patient" not in json.dumps(clients_of(tmp_path / "run"))


def test_other_data_than_the_servers_part_are_noticed(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Also where there are no labels by which to tell."""
    config = study("data.label=")
    fewer = writers.write(tmp_path / "pairs.jsonl", writers.pairs(30))

    def site(found: Config, node: Any) -> Any:
        return participant(configuration.override(found, [f"data.train={fewer}"]), node)

    nodes = InProcess(make_client_app(site), {100 + i: {"partition-id": i} for i in range(3)})
    with pytest.raises(FlowerError, match="has other data than the server's part of that name"):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), wait=0))
    assert "has other data" in caplog.text


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"data-promt": "asked"}, "did you mean 'data-prompt'"),
        ({"data-format": "pairs"}, r"the node failed \(ConfigError\)"),
        ({"data-completion": "elsewhere"}, "the site's data do not fit the configuration"),
    ],
)
def test_what_a_node_says_of_its_columns_is_looked_at(study: Study, tmp_path: Path, node: dict[str, str], reason: str):
    table = writers.write(tmp_path / "a.jsonl", writers.pairs(12))
    nodes = InProcess(make_client_app(), {1: {"client": "a", "data-train": str(table), **node}})
    with pytest.raises(FlowerError, match=reason):
        serve(nodes, study(), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1, wait=0))


def test_prompts_of_several_columns(study: Study, tmp_path: Path):
    rows = [{"q": row["prompt"], "more": "Please.", "a": row["completion"]} for row in writers.pairs(12)]
    table = writers.write(tmp_path / "a.jsonl", rows)
    node = {"data-train": str(table), "data-prompt": '["q", "more"]', "data-completion": "a"}
    found = participant(configuration.override(study(), ["task.name=causal-lm"]), node)
    assert found.config.data.prompt == ["q", "more"]  # type: ignore[attr-defined]  # a Site


def test_a_site_whose_data_grew_is_named_without_labels(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = writers.write(tmp_path / "a.jsonl", writers.pairs(12))
    nodes = InProcess(make_client_app(), {1: {"client": "a", "data-train": str(table)}})
    settings = replace(QUICK, out=str(tmp_path / "run"), min_nodes=1)
    serve(nodes, anyhow(study("federation.rounds=1")), settings)
    writers.write(table, writers.pairs(48))
    nodes.app = make_client_app()
    with caplog.at_level(logging.WARNING):
        serve(nodes, anyhow(study("federation.rounds=2")), replace(settings, resume=True))
    said = [record.getMessage() for record in caplog.records if "when the run began" in record.getMessage()]
    assert said == ["a had 10 examples when the run began, and has 38 now"]


def test_a_site_that_learns_something_else_is_left_out(study: Study, tmp_path: Path):
    """A daemon has a configuration of its own: another task, or other words around a prompt."""
    own = ["federation.clients=1", "data.partition=iid", "data.template=none"]
    other = loading.participant(study(*own))
    nodes = InProcess(make_client_app(lambda *_: other), {1: {"client": "a"}})
    with pytest.raises(FlowerError, match=r"learns another task than the federation's CausalLM\(template='chat'\)"):
        serve(nodes, study(), replace(QUICK, out=str(tmp_path / "run"), min_nodes=1, wait=0))
