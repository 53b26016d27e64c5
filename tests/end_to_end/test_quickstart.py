"""The quickstart as a user runs it: real processes, the embedded backbone and text, shortened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import polyrank
from polyrank.runs import checkpoint
from tests.interrupts import heard

SHORT = (
    *("--set", "federation.clients=10", "--set", "federation.participation=0.4", "--set", "federation.rounds=4"),
    *("--set", "data.limit_train=400", "--set", "data.limit_test=100", "--set", "ranks.validation_per_label=3"),
    *("--set", "training.precision=float32", "--set", "training.attention=eager"),
    *("--set", "training.engine=batched", "--set", "training.clients_per_pass=5", "--set", "training.workers=1"),
)
SECONDS = 240


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "polyrank", *map(str, arguments)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted quickstart."""
    folder = tmp_path_factory.mktemp("quickstart")
    result = subprocess.run(
        command("run", *SHORT, "--out", "run"), cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "best constant answer" in result.stdout
    return folder / "run"


def test_it_learns_and_leaves_all_of_a_run(done: Path):
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["test/loss"] < lines[0]["test/loss"]
    clients = json.loads((done / "clients.json").read_text())["clients"]
    assert sorted(row["rank"] for row in clients.values()) == [5] * 9 + [20]
    promoted = [row["validation_loss"] for row in clients.values() if row["rank"] == 20]
    assert max(promoted) <= min(row["validation_loss"] for row in clients.values() if row["rank"] == 5)


def test_the_adapter_works_in_plain_peft(done: Path):
    """Logits of `PeftModel.from_pretrained` equal those of a base whose weights have every delta added by hand."""
    base = polyrank.base_model(done / "adapter")
    texts = ["Open a socket and listen.", "Parse an XML document.", "A widget with a scrollbar."]
    batch = base.tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = PeftModel.from_pretrained(base.model, done / "adapter").eval()(**inputs).logits
        by_hand = polyrank.base_model(done / "adapter").model
        parameters = dict(by_hand.named_parameters())
        adapter = checkpoint.load(done / "checkpoint").adapter
        for name, factors in adapter.modules.items():
            parameters[f"{name}.weight"] += factors.delta()
        for name, tensor in adapter.dense.items():
            parameters[name].copy_(tensor)
        expected = by_hand.eval()(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.long  # tests/runs/test_resuming.py stops runs of a tiny model in every round
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGINT, id="interrupted")]
)
def test_a_stopped_run_is_continued_to_the_same_adapter(done: Path, tmp_path: Path, how: signal.Signals):
    with heard():
        process = subprocess.Popen(
            command("run", *SHORT, "--out", "run"),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + SECONDS
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=SECONDS)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "polyrank run --resume --out run" in errors
    else:
        assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(tmp_path / "run" / "checkpoint").round < 4

    resumed = subprocess.run(
        command("run", "--resume", "--out", "run"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    one, other = (checkpoint.load(folder / "checkpoint") for folder in (done, tmp_path / "run"))
    assert (one.round, one.ranks) == (other.round, other.ranks)
    assert one.adapter.identical(other.adapter)
    compared = ("round", "test/accuracy", "test/loss", "bytes/up", "bytes/down", "clients")
    for mine, theirs in zip(_lines(done), _lines(tmp_path / "run"), strict=True):
        assert {key: mine[key] for key in compared} == {key: theirs[key] for key in compared}


def _lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_the_quickstart_that_writes(tmp_path: Path):
    """At most 0.6 of the base's perplexity and 0.3 of the unigram's; less in every topic and for every rank group."""
    done = subprocess.run(
        command("run", "--quickstart", "generative", "--out", "run"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["untrained/perplexity"], summary["test/perplexity"]
    assert after <= 0.6 * before
    assert after <= 0.3 * summary["constant/perplexity"]
    kinds = summary["untrained/perplexity_by_kind"]
    assert len(kinds) == 9
    assert all(summary["test/perplexity_by_kind"][kind] < own for kind, own in kinds.items())
    assert [group["rank"] for group in summary["rank_groups"]] == [4, 16]
    assert all(group["perplexity"] < before for group in summary["rank_groups"])
    assert summary["memory/peak"] < 2e9
    samples = json.loads((tmp_path / "run" / "samples.json").read_text(encoding="utf-8"))["samples"]
    assert len(samples) == 5
    assert all(one["after"] and one["after"] != one["before"] for one in samples)
