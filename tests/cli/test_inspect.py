from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polyrank.cli.adapters import by_layer, describe_adapter
from polyrank.cli.inspect import error_by_layer, owners_by_row
from polyrank.config import ModelConfig
from polyrank.core.adapter import Adapter, Factors
from polyrank.hf.peft.folder import Target, write
from tests.cli.conftest import Polyrank


@pytest.fixture(scope="module")
def run(own_things: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from polyrank import config
    from polyrank.runs.runner import run

    folder = tmp_path_factory.mktemp("inspect") / "study"
    run(config.load(own_things / "study.toml"), folder)
    return folder


def test_an_adapter_is_described_in_numbers():
    """delta = 2 * [[3, 0], [0, 1], [0, 0]]: singular values 6 and 2, norm sqrt(40), bytes 4 * (4 + 6).

    Energies 36 and 4, so .9 lies in the first direction: effective rank exp(-.9 ln .9 - .1 ln .1) =
    exp(.0948 + .2303) = 1.384.
    """
    b = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    (row,) = describe_adapter(Adapter({"layer": Factors(torch.eye(2), b, 2.0)}), lowest=1)
    assert (row["d_out"], row["d_in"], row["rank"], row["scale"], row["bytes"]) == (3, 2, 2, 2.0, 40)
    assert row["singular_values"] == pytest.approx([6.0, 2.0])
    assert row["norm"] == pytest.approx(40**0.5)
    assert row["effective_rank"] == pytest.approx(1.384, abs=1e-3)
    assert row["energy_in_lowest"] == pytest.approx(0.9)


def test_the_energy_of_a_zero_delta_has_no_share():
    """Before the first round B is 0: no direction is used, and no share of nothing exists."""
    (row,) = describe_adapter(Adapter({"layer": Factors(torch.eye(2), torch.zeros(3, 2))}), lowest=1)
    assert row["effective_rank"] == 0
    assert row["energy_in_lowest"] is None


def test_errors_are_grouped_by_the_last_name():
    """query: (.1 + .3) / 2 = .2, highest .3; value: one of two has no finite error; out: none has."""
    errors = {"0.query": 0.1, "0.value": 0.5, "1.query": 0.3, "1.value": None, "out": None}
    rows = {row.pop("layer"): row for row in error_by_layer(errors)}
    assert rows["query"] == {"modules": 2, "mean": pytest.approx(0.2), "highest": 0.3}
    assert rows["value"] == {"modules": 2, "mean": 0.5, "highest": 0.5}
    assert rows["out"] == {"modules": 1, "mean": None, "highest": None}


def test_rows_of_the_same_owners_are_one_span():
    """Two rows of all clients, one of a quarter, two of none; 1 - 1e-9 is what is left of 1 by rounding."""
    assert owners_by_row([1.0, 1 - 1e-9, 0.25, 0.0, 0.0]) == [
        {"first": 1, "last": 2, "weight": 1.0},
        {"first": 3, "last": 3, "weight": 0.25},
        {"first": 4, "last": 5, "weight": 0.0},
    ]


def test_a_run_and_its_adapter_hold_the_same_modules(polyrank: Polyrank, run: Path):
    """Rank 4, 16 x 16 layers, query and value of 2 layers: 4 * (16 + 16) * 4 = 512 LoRA parameters, 128 per rank."""
    shown = polyrank("inspect", run)
    assert shown.code == 0
    for word in ("replication", "2 of 2 rounds", "3 at rank 2, 1 at rank 4", "512 LoRA parameters (128 per rank)"):
        assert word in shown.out
    of_run = json.loads(polyrank("inspect", run, "--json").out)
    of_adapter = json.loads(polyrank("inspect", run / "adapter", "--json").out)
    assert (of_run["lowest_rank"], of_adapter["lowest_rank"]) == (2, 4)
    assert of_run["run"]["unfinished"] is None
    assert of_run["run"]["clients_by_rank"] == {"2": 3, "4": 1}
    assert of_adapter["run"] is None
    assert {row["module"]: row["norm"] for row in of_run["modules"]} == {
        row["module"]: pytest.approx(row["norm"]) for row in of_adapter["modules"]
    }


def test_a_run_shows_what_its_last_round_measured(polyrank: Polyrank, run: Path):
    """Both clients of round 2 have a rank of 2 or more, so that rows 1 and 2 belong to all of the weight."""
    found = json.loads(polyrank("inspect", run, "--json").out)["run"]
    assert {(row["layer"], row["modules"]) for row in found["error_by_layer"]} == {("query", 2), ("value", 2)}
    errors = [e for n, e in found["last"]["aggregation/error_by_module"].items() if n.endswith("query")]
    (query,) = (row for row in found["error_by_layer"] if row["layer"] == "query")
    assert query["mean"] == pytest.approx(sum(errors) / 2)
    assert found["owners_by_row"][0]["first"] == 1
    assert found["owners_by_row"][0]["last"] >= 2
    assert found["owners_by_row"][0]["weight"] == 1
    assert found["owners_by_row"][-1]["last"] == 4
    shown = polyrank("inspect", run, "--lowest", "3").out
    for words in ("aggregation error  ", "effective rank", "clients' drift", "owners' weight"):
        assert words in shown
    assert "energy in rank 3" in shown


def test_a_run_of_fewer_rounds_than_planned_says_why(polyrank: Polyrank, own_things: Path):
    """With a learning rate of nothing the second round is no better than the first."""
    still = ("--set", "training.lr=1e-12", "--set", "evaluation.patience=1", "--set", "federation.rounds=3")
    assert polyrank("run", own_things / "study.toml", "--out", "still", *still).code == 0
    why = "ended after round 2 of 3: 1 evaluation without a better test accuracy (evaluation.patience)"
    assert f"the run {why}" in polyrank("inspect", "still").out
    assert json.loads(polyrank("inspect", "still", "--json").out)["run"]["unfinished"] == why
    Path("still/summary.json").unlink()
    assert "the run is not finished: 2 of 3 rounds" in polyrank("inspect", "still").out


def test_a_run_without_diagnostics_is_shown_without_them(polyrank: Polyrank, own_things: Path):
    assert (
        polyrank("run", own_things / "study.toml", "--out", "bare", "--set", "evaluation.diagnostics=false").code == 0
    )
    shown = polyrank("inspect", "bare")
    assert shown.code == 0
    assert "drift" not in shown.out
    assert "owners' weight" in shown.out


@pytest.mark.parametrize("made", ["missing", "empty"])
def test_what_is_no_adapter_is_one_line(polyrank: Polyrank, made: str):
    Path("empty").mkdir()
    result = polyrank("inspect", made)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert made in result.err


def test_many_modules_are_shown_in_groups(polyrank: Polyrank, tmp_path: Path):
    """Of one last name and shape each, unless every one is asked for."""
    factors = [Factors(torch.ones(1 + i % 2, 3), torch.ones(4, 1 + i % 2), 1.0 + i) for i in range(30)]
    adapter = Adapter({f"layers.{i}.{'q' if i % 3 else 'v'}_proj": one for i, one in enumerate(factors)})
    rows = {row["layer"]: row for row in by_layer(describe_adapter(adapter, lowest=1))}
    assert {name: row["modules"] for name, row in rows.items()} == {"q_proj": 20, "v_proj": 10}
    assert (rows["v_proj"]["rank"], rows["v_proj"]["scale"]) == ((1, 2), (1.0, 28.0))
    assert sum(row["bytes"] for row in rows.values()) == adapter.nbytes
    target = Target(ModelConfig(name="x"), (), "causal-lm")
    write(tmp_path / "adapter", adapter, target)
    few = polyrank("inspect", tmp_path / "adapter").out
    assert "30 modules, least to highest; --modules shows each" in few
    assert "layers.7.q_proj" not in few
    assert "1 to 28" in few
    assert "layers.7.q_proj" in polyrank("inspect", tmp_path / "adapter", "--modules").out
