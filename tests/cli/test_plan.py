from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

from polyrank.core.text import size
from tests.cli.conftest import Polyrank

PER_RANK = 4 * 32
"""Numbers of a rank index: query and value of two layers of 16 x 16."""
HEAD = 34
"""Two labels: 2 x 16 weights and 2 biases."""


def test_the_table_shows_each_rank_and_all_that_is_sent(polyrank: Polyrank, own_things: Path):
    shown = polyrank("plan", own_things / "study.toml", "--set", "ranks.levels=[2,4]", "--set", "ranks.policy=fixed")
    assert (shown.code, shown.err) == (0, "")
    first, header, *_ = shown.out.splitlines()
    assert first.startswith("replication on ")
    assert "2 rounds of " in first
    assert header.split()[:2] == ["rank", "clients"]
    assert f"{4 * PER_RANK + HEAD:,}" in shown.out
    assert size(4 * (4 * PER_RANK + HEAD)) in shown.out
    for word in ("in all: ", " up, ", " down, ", " together", "the head, 34 numbers", "--measure"):
        assert word in shown.out


def test_as_json_it_is_what_the_run_s_summary_says(polyrank: Polyrank, own_things: Path):
    study = (own_things / "study.toml", "--set", "ranks.policy=random")
    planned = json.loads(polyrank("plan", *study, "--json").out)
    assert polyrank("run", *study, "--out", "run").code == 0
    summary = json.loads(Path("run/summary.json").read_text())
    for key in ("method", "rounds", "clients", "bytes/up", "bytes/down"):
        assert planned[key] == summary[key]
    assert planned["head_parameters"] == HEAD
    assert planned["memory"]["bytes_per_rank"] == 4 * 4 * PER_RANK  # weight, gradient and AdamW's two moments


def test_ranks_for_an_uplink_can_be_pasted_and_are_the_highest(polyrank: Polyrank, own_things: Path):
    """A budget of exactly rank 3, and one byte less."""
    exact = 4 * (3 * PER_RANK + HEAD)
    for budget, rank in ((exact, 3), (exact - 1, 2)):
        shown = polyrank("plan", own_things / "study.toml", "--uplink", f"{budget}B")
        table = shown.out[shown.out.index("[ranks]") :]
        assert tomllib.loads(table)["ranks"]["levels"] == [rank]
    two = polyrank("plan", own_things / "study.toml", "--uplink", f"{exact}B", "--uplink", "1GB", "--json")
    ranks = json.loads(two.out)["ranks"]
    assert ranks["levels"] == [3, 16]  # no layer has more
    (own_things / "pasted.toml").write_text(
        (own_things / "study.toml").read_text().split("[ranks]")[0] + f"[ranks]\nlevels = {ranks['levels']}\n"
    )
    assert polyrank("plan", own_things / "pasted.toml").code == 0


def test_a_method_that_takes_turns_has_the_uplink_of_its_larger_half(polyrank: Polyrank, own_things: Path):
    half = 4 * (5 * PER_RANK // 2 + HEAD)
    shown = polyrank(
        *("plan", own_things / "study.toml", "--set", "aggregation.method=rolora", "--set", "ranks.policy=random"),
        *("--uplink", f"{half}B", "--json"),
    )
    assert json.loads(shown.out)["ranks"]["levels"] == [5]


def test_measured_memory_holds_base_ranks_and_activations(polyrank: Polyrank, own_things: Path):
    study = (own_things / "study.toml", "--set", "training.precision=float32", "--set", "training.attention=eager")
    found = json.loads(polyrank("plan", *study, "--measure", "--json").out)
    memory = found["memory"]
    saved = {int(rank): value for rank, value in memory["measured"]["saved"].items()}
    assert memory["base_bytes"] == {"float32": 4 * memory["base_parameters"]}
    assert memory["measured"]["precision"] == "float32"
    assert 0 < saved[min(saved)] < saved[max(saved)]
    assert "activations" in polyrank("plan", *study, "--measure").out.splitlines()[1]
    training = {level["rank"]: level["training_bytes"] for level in found["levels"]}
    for rank, own in training.items():
        enough = memory["base_bytes"]["float32"] + own + saved[rank]
        fits = polyrank("plan", *study, "--measure", "--memory", f"{enough}B", "--json")
        assert json.loads(fits.out)["ranks"]["levels"] == [rank]


def test_memory_without_activations_says_so(polyrank: Polyrank, own_things: Path):
    shown = polyrank("plan", own_things / "study.toml", "--memory", "1GB")
    assert "# activations are not counted: --measure does\n[ranks]\n" in shown.out
    tomllib.loads(shown.out[shown.out.index("# activations") :])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--uplink", "5"), "--uplink: found '5'; expected a size such as 5MB"),
        (("--uplink", "5mb"), "--uplink: found '5mb'"),
        (("--uplink", "-5MB"), "--uplink: found '-5MB'"),
        (("--memory", "0GB"), "--memory: found '0GB'"),
        (("--memory", "1e3MB"), "--memory: found '1e3MB'"),
        (("--uplink", "600B"), "too little: a client of rank 1 sends 648 B, 136 B of it for the head"),
        (("--memory", "1kB"), "too little: a client of rank 1 holds "),
        (("--memory", "1kB"), 'for base and head; model.quantization = "nf4" holds the base in less'),
        (("--uplink", "1MB", "--uplink", "2MB", "--memory", *("1GB", "--memory", "1GB", "--memory", "2GB")), "3 times"),
        (("--set", "aggregation.method=fedavg"), "needs clients of equal ranks"),
        (("--set", "model.name=./nowhere"), "no such folder"),
    ],
)
def test_bad_input_is_one_line(polyrank: Polyrank, own_things: Path, arguments: tuple[str, ...], said: str):
    shown = polyrank("plan", own_things / "study.toml", *arguments)
    assert shown.code == 2
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_missing_configuration_is_one_line(polyrank: Polyrank):
    shown = polyrank("plan", "nowhere.toml")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: no such configuration file: nowhere.toml")


def test_a_quantised_base_is_planned_without_the_package(
    polyrank: Polyrank, own_things: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two layers of 4 x 16 x 16 + 2 x 16 x 24 and a pooler of 16 x 16 are 3,840 weights, 60 blocks of 64.

    4 bytes each in float32, 64 / 2 + 4 a block in nf4, one each in int8 and 4 a row: 2 x (5 x 16 + 24) + 16 rows.
    """
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    study = (own_things / "study.toml", "--set", "training.precision=float32", "--json")
    plain, four, eight = (
        json.loads(polyrank("plan", *study, "--set", f"model.quantization={how}").out)["memory"]
        for how in ("none", "nf4", "int8")
    )
    assert plain["base_parameters"] == four["base_parameters"] == eight["base_parameters"]
    saved = [plain["base_bytes"]["float32"] - other["base_bytes"]["float32"] for other in (four, eight)]
    assert saved == [3840 * 4 - 60 * (32 + 4), 3840 * 4 - (3840 + 4 * (2 * (5 * 16 + 24) + 16))]


def test_recomputed_layers_are_measured_with_one_of_them_whole(polyrank: Polyrank, own_things: Path):
    study = (own_things / "study.toml", "--set", "training.precision=float32", "--measure", "--json")
    plain, again = (
        json.loads(polyrank("plan", *study, "--set", f"training.gradient_checkpointing={on}").out)["memory"]["measured"]
        for on in ("false", "true")
    )
    for rank, kept in plain["saved"].items():
        assert 0.2 * kept < again["saved"][rank] < kept
