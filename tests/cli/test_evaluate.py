"""``polyrank evaluate``: a run's own metrics on its own data and on any others, answers, classes of texts."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from polyrank import config as configuration
from polyrank.runs.answers import Answer
from polyrank.runs.measuring import Reply, compared
from polyrank.runs.runner import run
from polyrank.tasks.causal_lm.rouge import rouge_l
from tests import writers
from tests.cli.conftest import Polyrank


def told(polyrank: Polyrank, *arguments: str | Path) -> dict[str, Any]:
    result = polyrank("evaluate", *arguments, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def scores(line: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("test/"): value for key, value in line.items() if key.startswith("test/")}


def test_a_run_gives_its_last_metrics(polyrank: Polyrank, written: Path):
    """To the last bit, by kind too; the base gives those of round 0; on the screen they are as people read them."""
    found = told(polyrank, written, "--base")
    assert found["test"] == scores(lines(written)[-1])
    assert found["base"] == scores(lines(written)[0])
    assert set(found["test"]["loss_by_kind"]) == {"say", "what"}
    shown = polyrank("evaluate", written).out
    assert f"{found['test']['perplexity']:.2f}" in shown
    assert f"{found['examples']} examples, {found['trained_tokens']} trained tokens" in shown
    (heading,) = (line for line in shown.splitlines() if line.split()[:1] == ["loss"] and "perplexity" in line)
    assert heading.split() == ["loss", "perplexity", "token", "accuracy"]


def test_its_adapter_and_the_merged_model_on_the_same_data(
    polyrank: Polyrank, written: Path, writing: Path, tmp_path: Path
):
    expected = scores(lines(written)[-1])
    assert polyrank("export", written, "--merged", "-o", tmp_path / "merged").code == 0
    for path, near in ((written / "adapter", 1e-6), (tmp_path / "merged", 1e-4)):
        found = told(polyrank, path, writing / "study.toml")["test"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=near)
        assert found["token_accuracy"] == pytest.approx(expected["token_accuracy"], abs=near)
        assert found["loss_by_kind"] == pytest.approx(expected["loss_by_kind"], rel=near)


def test_a_clients_own_model(polyrank: Polyrank, writing: Path, tmp_path: Path):
    """Where B stays with clients a run has no one model; of each client there is one."""
    run(configuration.load(writing / "study.toml", ["aggregation.method=fedsa"]), tmp_path / "own")
    for command in (["evaluate", tmp_path / "own"], ["generate", tmp_path / "own", "-p", "Hi"]):
        refused = polyrank(*command)
        assert (refused.code, len(refused.err.strip().splitlines())) == (2, 1)
        assert "there is no one model; name a client, such as --client site-0" in refused.err
    shared = polyrank("evaluate", tmp_path / "own" / "adapter", writing / "study.toml")
    assert (shared.code, "holds what the clients of a run share" in shared.err) == (2, True)
    each = [told(polyrank, tmp_path / "own", "--client", f"site-{i}")["test"]["loss"] for i in range(3)]
    assert sum(each) / 3 == pytest.approx(lines(tmp_path / "own")[-1]["test/loss"], rel=1e-6)
    assert len(set(each)) == 3
    assert polyrank("generate", tmp_path / "own", "-p", "Hi", "--client", "site-1").code == 0
    assert "did you mean 'site-1'" in polyrank("evaluate", tmp_path / "own", "--client", "site1").err


def test_a_base_change_counts(polyrank: Polyrank, writing: Path, tmp_path: Path):
    """FLoRA puts everything that was learned into it."""
    run(configuration.load(writing / "study.toml", ["aggregation.method=flora"]), tmp_path / "run")
    found = told(polyrank, tmp_path / "run")["test"]
    assert found == scores(lines(tmp_path / "run")[-1])
    assert found["loss"] != lines(tmp_path / "run")[0]["test/loss"]


def test_other_data(polyrank: Polyrank, written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """All rows of a file, under the run's columns; without the column of kinds in all only."""
    rows = writers.pairs(20)
    file = writers.write(tmp_path / "other.jsonl", rows)
    found = told(polyrank, written, "--data", file)
    assert (found["examples"], found["data"]) == (20, str(file))
    assert set(found["test"]["loss_by_kind"]) == {"say", "what"}
    bare = writers.write(tmp_path / "bare.jsonl", [{key: row[key] for key in ("prompt", "completion")} for row in rows])
    one = told(polyrank, written / "adapter", "--data", bare, "--set", "data.max_tokens=48")
    assert one["test"]["loss"] == pytest.approx(found["test"]["loss"], rel=1e-6)
    assert "loss_by_kind" not in one["test"]
    turns = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]
    two = told(
        polyrank,
        written / "adapter",
        "--data",
        writers.write(tmp_path / "turns.jsonl", turns),
        "--set",
        "data.max_tokens=48",
    )
    assert two["test"] == one["test"]
    texts = writers.write(tmp_path / "texts.jsonl", [{"text": row["completion"]} for row in rows])
    assert told(polyrank, written, "--data", texts, "--set", "data.label=")["precision"] == "float32"
    assert f"{texts} holds whole texts, which are measured as they stand" in caplog.text
    few = told(polyrank, written / "adapter", "--data", bare, "--set", "data.limit_test=5")
    assert few["examples"] == 5


def test_data_that_changed_since_are_said(polyrank: Polyrank, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    study = writers.study(tmp_path)
    run(configuration.load(study / "study.toml", ["federation.rounds=1"]), tmp_path / "run")
    assert told(polyrank, tmp_path / "run")["test"] == scores(lines(tmp_path / "run")[-1])
    assert "the data changed since" not in caplog.text
    writers.write(study / "pairs.jsonl", writers.pairs(40))
    told(polyrank, tmp_path / "run")
    assert "the data changed since the run was made" in caplog.text


def test_answers(polyrank: Polyrank, written: Path, tmp_path: Path):
    """What is counted on the screen is what stands in the file, row by row."""
    file = tmp_path / "answers.jsonl"
    found = told(polyrank, written, "--samples", "6", "--max-tokens", "9", "--predictions", file)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    asked = writers.pairs()
    for row in rows:
        assert asked[row["row"] - 1]["completion"] == row["reference"]
        assert row["rouge_l"] == rouge_l(row["reference"], row["answer"])
    means = found["answers"]
    assert means["answers"] == len(rows) == 6
    assert means["rouge_l"] == pytest.approx(sum(row["rouge_l"] for row in rows) / 6)
    assert means["cut"] == sum(row["cut"] for row in rows)
    assert (
        f"6 answers: ROUGE-L {means['rouge_l']:.3f}"
        in polyrank("evaluate", written, "--samples", "6", "--max-tokens", "9").out
    )
    everything = told(polyrank, written, "--samples", "1000", "--max-tokens", "2")
    assert everything["answers"]["answers"] == everything["examples"]


def test_what_answers_come_to():
    """Three of four have what ROUGE knows; one is right, one half, one empty; one was cut."""
    replies = [
        Reply(1, "", "red", Answer(" red\n", 2, cut=False), 1.0, exact=True),
        Reply(2, "", "the house", Answer("a house", 9, cut=True), 0.5, exact=False),
        Reply(3, "", "blue", Answer(" ", 1, cut=False), 0.0, exact=False),
        Reply(4, "", "мама", Answer("мама", 4, cut=False), 0.0, exact=True),
    ]
    assert compared(replies) == {
        **{"answers": 4, "rouge_l": 0.375, "exact_match": 0.5},
        **{"cut": 1, "empty": 1, "unread": 1},
    }


def test_classification(polyrank: Polyrank, classified: Path, own_things: Path, tmp_path: Path):
    """The run's last metrics; accuracy is that of the classes in the file; without labels classes are still given."""
    expected = scores(lines(classified)[-1])
    file = tmp_path / "classes.csv"
    found = told(polyrank, classified, "--predictions", file)
    assert found["test"] == expected
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == found["examples"] == 12
    assert sum(row["label"] == row["predicted"] for row in rows) / 12 == pytest.approx(expected["accuracy"])
    for row in rows:
        own = {name: float(row[f"p({name})"]) for name in ("fruit", "pets")}
        assert sum(own.values()) == pytest.approx(1)
        assert max(own, key=own.__getitem__) == row["predicted"]
    with (own_things / "toy.csv").open(encoding="utf-8", newline="") as opened:
        texts = [row["review"] for row in csv.DictReader(opened)]
    assert all(texts[int(row["row"]) - 1] == row["text"] for row in rows)
    again = told(polyrank, classified / "adapter", own_things / "study.toml")
    assert again["test"] == pytest.approx(expected, rel=1e-6)
    bare = tmp_path / "new.csv"
    bare.write_text("text\n" + "".join(f'"{row["text"]}"\n' for row in rows), encoding="utf-8")
    written = tmp_path / "new.jsonl"
    only = told(polyrank, classified / "adapter", "--data", bare, "--predictions", written)
    assert "test" not in only
    new = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    assert [row["predicted"] for row in new] == [row["predicted"] for row in rows]
    assert {row["label"] for row in new} == {None}
    refused = polyrank("evaluate", classified / "adapter", "--data", bare)
    assert (refused.code, "has no labels, so nothing can be measured" in refused.err) == (2, True)


def test_a_merged_classifier(polyrank: Polyrank, classified: Path, own_things: Path, tmp_path: Path):
    assert polyrank("export", classified, "--merged", "-o", tmp_path / "merged").code == 0
    found = told(polyrank, tmp_path / "merged", own_things / "study.toml")
    assert found["test"] == pytest.approx(scores(lines(classified)[-1]), rel=1e-4)


def test_harness_that_is_not_installed(polyrank: Polyrank, written: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    refused = polyrank("evaluate", written, "--harness", "arc_easy")
    assert (refused.code, "pip install lm-eval" in refused.err) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_harness(polyrank: Polyrank, writing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A local task of lm-eval over the same rows: the nats of its likelihoods are ours, to 1e-3.

    Its perplexity is exp(- log likelihood / documents); ours are nats per trained token, the end token among them. Its
    rows are written without a template: of one that ends with a new line it would count that too.
    """
    written = tmp_path / "run"
    run(configuration.load(writing / "study.toml", ["data.template=none", "federation.rounds=1"]), written)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = writers.write(tmp_path / "rows.jsonl", writers.pairs(12))
    task = tmp_path / "own.yaml"
    task.write_text(
        f"""
task: own_nats
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{completion}}}}</s>"
target_delimiter: ""
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
""",
        encoding="utf-8",
    )
    found = told(polyrank, written, "--data", file, "--set", "data.max_tokens=120", "--harness", task)
    theirs = 12 * math.log(found["harness"]["own_nats"]["perplexity,none"])
    assert theirs == pytest.approx(found["test"]["loss"] * found["trained_tokens"], abs=1e-3 * 12)
    few = told(polyrank, written / "adapter", "--harness", task, "--harness-limit", "3")
    assert "test" not in few
    assert few["harness"]["own_nats"]["sample_len"] == 3
    unknown = polyrank("evaluate", written, "--harness", "no_such_task")
    assert (unknown.code, "--harness no_such_task" in unknown.err) == (2, True)


def test_what_cannot_be_measured(polyrank: Polyrank, written: Path, classified: Path, own_things: Path, tmp_path: Path):
    """Each is one line, nothing is written, and what was there stays."""
    there = tmp_path / "there.csv"
    there.write_text("mine", encoding="utf-8")
    other = tmp_path / "other.csv"
    other.write_text("review,stars\ngood,stars\nbad,moons\n", encoding="utf-8")
    stopped = tmp_path / "stopped"
    shutil.copytree(written, stopped)
    shutil.rmtree(stopped / "checkpoint")
    out = tmp_path / "out.csv"
    cases: dict[str, list[str | Path]] = {
        "there is no nowhere": ["nowhere"],
        "study.toml is a file; expected a run folder": [own_things / "study.toml"],
        "says nothing of data; give a configuration with [data], or --data FILE": [written / "adapter"],
        "no such configuration file": [written, "nofile.toml"],
        "no such file": [written, "--data", "nofile.jsonl"],
        "was trained for causal-lm, and task.name is 'classification'": [written, "--set", "task.name=classification"],
        "has no columns that a model could learn to write from": [written / "adapter", "--data", other],
        "have labels that are none of the classes": [classified, "--data", other],
        "--samples is of models that write": [classified, "--samples", "3"],
        "--base is of models that write": [classified, "--base"],
        "are its answers; say how many: --samples N": [written, "--predictions", out],
        "there.csv exists; choose another name": [classified, "--predictions", there],
        "expected a name that ends in .csv or .jsonl": [classified, "--predictions", "out.xlsx"],
        "there is no folder": [classified, "--predictions", tmp_path / "no" / "out.csv"],
        "nothing stays with the clients": [written, "--client", "site-0"],
        "checkpoint": [stopped],
    }
    for words, arguments in cases.items():
        result = polyrank("evaluate", *arguments)
        assert result.code == 2, (words, result)
        assert words in result.err, (words, result.err)
        assert len(result.err.strip().splitlines()) == 1, result.err
        assert result.out == ""
    assert there.read_text(encoding="utf-8") == "mine"
    assert not out.exists()
