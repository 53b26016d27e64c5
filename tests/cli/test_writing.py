"""The commands about runs, with a model that writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests import writers
from tests.cli.conftest import Polyrank


def test_run_inspect_and_report(polyrank: Polyrank, tmp_path: Path):
    """Round 0, kinds and rows that are no examples."""
    study = writers.study(tmp_path) / "study.toml"
    table = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "Hi", "completion": "red " * 60, "kind": "what", "owner": f"site-{i}"} for i in (0, 0, 1)]
    writers.write(table, [*writers.pairs(), *rows])
    tests = writers.write(tmp_path / "test.jsonl", writers.pairs(8))
    asked = [study, "--set", f"data.test={tests}"]
    ran = polyrank("run", *asked, "--out", "one")
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    for words in ("round loss perplexity", "0/2", "before the first round", "unigram of the training answers"):
        assert words in said
    summary = json.loads(Path("one/summary.json").read_text(encoding="utf-8"))
    inspected = polyrank("inspect", "one").out
    assert f"before the first round: loss {summary['untrained/loss']:.3f}, perplexity" in inspected
    assert f"last round: loss {summary['test/loss']:.3f}, perplexity" in inspected
    assert "rows left out: 3 of 2 client(s): the answer is longer than data.max_tokens" in inspected
    (line,) = (line for line in inspected.splitlines() if line.startswith("say "))
    before, now = (summary[f"{when}/loss_by_kind"]["say"] for when in ("untrained", "test"))
    assert line.split() == ["say", f"{before:.3f}", f"{now:.3f}"]
    told = json.loads(polyrank("inspect", "one", "--json").out)["run"]
    assert told["untrained"]["round"] == 0
    assert [sum(own.values()) for own in told["left_out"].values()] == [2, 1]
    assert polyrank("report", "one").out.startswith("replication takes the test loss from ")


def test_a_comparison(polyrank: Polyrank, tmp_path: Path):
    """Less is better, and the better method is named."""
    study = writers.study(tmp_path) / "study.toml"
    asked = [study, "--set", "federation.rounds=1", "--set", "evaluation.samples=0"]
    compare = ["compare", *asked, "--methods", "replication,zero_padding", "--seeds", "0", "--out", "out"]
    refused = polyrank(*compare, "--target", "-1")
    assert (refused.code, Path("out").exists()) == (2, False)
    compared = polyrank(*compare)
    assert compared.code == 0, compared.err
    shown = " ".join(compared.out.split())
    assert "loss: less is better" in shown
    assert "Before the first round the test loss was " in shown
    found = json.loads(polyrank(*compare, "--json").out)
    ends = {method["name"]: method["end"]["mean"] for method in found["methods"]}
    sentence = polyrank("report", "out").out
    assert sentence.startswith(f"{min(ends, key=ends.__getitem__)} ends ")
    assert "of test loss below" in sentence


def test_kinds_of_others_are_no_markup(polyrank: Polyrank, tmp_path: Path):
    study = writers.study(tmp_path) / "study.toml"
    rows = [{**row, "kind": "[red]bold[/red]\x1b[2J" if row["kind"] == "say" else "what"} for row in writers.pairs()]
    writers.write(tmp_path / "pairs.jsonl", rows)
    assert polyrank("run", study, "--set", "federation.rounds=1", "--out", "one").code == 0
    inspected = polyrank("inspect", "one")
    assert inspected.code == 0, inspected.err
    assert "[red]bold[/red]" in inspected.out
    assert "\x1b" not in inspected.out
