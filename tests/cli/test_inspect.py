from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polyrank.adapter import Adapter, Factors
from polyrank.cli.inspect import describe_adapter
from tests.cli.conftest import Polyrank


@pytest.fixture(scope="module")
def run(own_things: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from polyrank import config
    from polyrank.federation.runner import run

    folder = tmp_path_factory.mktemp("inspect") / "study"
    run(config.load(own_things / "study.toml"), folder)
    return folder


def test_an_adapter_is_described_in_numbers():
    """delta = 2 * [[3, 0], [0, 1], [0, 0]]: singular values 6 and 2, norm sqrt(40), bytes 4 * (4 + 6).

    Energies .9 and .1: effective rank exp(-.9 ln .9 - .1 ln .1) = exp(.0948 + .2303) = 1.384.
    """
    b = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    (row,) = describe_adapter(Adapter({"layer": Factors(torch.eye(2), b, 2.0)}))
    assert (row["d_out"], row["d_in"], row["rank"], row["scale"], row["bytes"]) == (3, 2, 2, 2.0, 40)
    assert row["singular_values"] == pytest.approx([6.0, 2.0])
    assert row["norm"] == pytest.approx(40**0.5)
    assert row["effective_rank"] == pytest.approx(1.384, abs=1e-3)


def test_a_run_and_its_adapter_hold_the_same_modules(polyrank: Polyrank, run: Path):
    """Rank 4, 16 x 16 layers, query and value of 2 layers: 4 * (16 + 16) * 4 = 512 LoRA parameters, 128 per rank."""
    shown = polyrank("inspect", run)
    assert shown.code == 0
    for word in ("replication", "2 of 2 rounds", "3 at rank 2, 1 at rank 4", "512 LoRA parameters (128 per rank)"):
        assert word in shown.out
    of_run = json.loads(polyrank("inspect", run, "--json").out)
    of_adapter = json.loads(polyrank("inspect", run / "adapter", "--json").out)
    assert of_run["run"]["clients_by_rank"] == {"2": 3, "4": 1}
    assert of_adapter["run"] is None
    assert {row["module"]: row["norm"] for row in of_run["modules"]} == {
        row["module"]: pytest.approx(row["norm"]) for row in of_adapter["modules"]
    }


@pytest.mark.parametrize("made", ["missing", "empty"])
def test_what_is_no_adapter_is_one_line(polyrank: Polyrank, made: str):
    Path("empty").mkdir()
    result = polyrank("inspect", made)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert made in result.err
