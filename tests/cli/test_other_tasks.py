"""The commands with a task whose first metric is better the lower it is, and is no share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank.tasks import registry
from tests.cli.conftest import Polyrank
from tests.tasks.doctored import REGISTRY


@pytest.fixture
def study(own_things: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    monkeypatch.setattr(registry, "TASKS", REGISTRY)
    return [own_things / "study.toml", "--set", "task.name=writing"]


def test_run_inspect_and_report(polyrank: Polyrank, study: list[str | Path]):
    """A column per curve while it runs, a row per metric at the end; nothing is in per cent but time and traffic."""
    ran = polyrank("run", *study, "--out", "one")
    assert ran.code == 0, ran.err
    (header,) = (line for line in ran.out.splitlines() if "time left" in line)
    assert header.split() == ["round", "perplexity", "loss", "up", "down", "time", "left"]
    for words in ("test perplexity", "best test perplexity", "best constant answer", "test loss"):
        assert words in ran.out
    (heading,) = (line for line in ran.out.splitlines() if line.startswith("rank "))
    assert heading.split() == ["rank", "clients", "perplexity", "loss"]
    assert "%" not in ran.out
    lines = [json.loads(line) for line in Path("one/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads(Path("one/summary.json").read_text(encoding="utf-8"))
    best = min(lines, key=lambda line: line["test/perplexity"])
    assert (summary["best/perplexity"], summary["best/round"]) == (best["test/perplexity"], best["round"])
    inspected = polyrank("inspect", "one")
    assert f"last round: perplexity {lines[-1]['test/perplexity']:.1f}, loss" in inspected.out
    reported = polyrank("report", "one")
    assert reported.out.startswith("replication reaches a test perplexity of ")


def test_a_comparison(polyrank: Polyrank, study: list[str | Path]):
    """The table is of its metric; a target is one, and what none can be is refused before anything runs."""
    asked = ["compare", *study, "--methods", "replication,zero_padding", "--seeds", "0", "--out", "out"]
    refused = polyrank(*asked, "--target", "0.5")
    assert (refused.code, Path("out").exists()) == (2, False)
    assert "target: found 0.5; expected a perplexity above 1" in refused.err
    compared = polyrank(*asked, "--target", "900")
    assert compared.code == 0, compared.err
    for words in ("rounds to 900", "perplexity at the end", "perplexity: less is better"):
        assert words in " ".join(compared.out.split())
    told = json.loads(polyrank(*asked, "--target", "900", "--json").out)
    assert (told["metric"], told["better"]) == ("perplexity", "lower")
    assert [method["rounds_to_target"] for method in told["methods"]] == [[1], [1]]


def test_a_run_of_another_task_is_not_gone_on_with(polyrank: Polyrank, study: list[str | Path]):
    assert polyrank("run", *study, "--out", "one").code == 0
    other = polyrank("run", study[0], "--resume", "--out", "one")
    assert other.code == 2
    assert "task.name is 'writing' there and 'classification' here" in other.err
