"""The benchmarks run and their JSON holds; what they measured is not judged here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
@pytest.mark.slow
@pytest.mark.long
def test_aggregation_runs_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """By hand: rank 4 on q and v of one layer, 16 wide, is 2 * 4 * (16 + 16) floats, 1024 bytes; clients of ranks 4, 2,
    1, 1 stack to 8; thirty of ranks 1, 2, 4 in turns to 70, and with ``compress`` to no more than the layer's 16.
    """
    from benchmarks import aggregation

    result = tmp_path / "aggregation.json"
    aggregation.main(["--tiny", "--result", str(result)])
    found = json.loads(result.read_text())["results"]
    assert found.keys() == {"stream", "clients", "product", "compress"}
    for part in found.values():
        assert part["machine"]["cores"]
        assert part["sizes"] == "tiny"
        assert part["found"]
    stream, product = found["stream"]["found"], found["product"]["found"]
    assert stream["unit_bytes"] == 1024
    for row in stream["methods"].values():
        assert {"accumulator_adapters", "with_update_adapters", "times_plain"} < row.keys()
        assert row["times_plain_by_rank"].keys() == {"1", "2", "4"}
    assert all(row.keys() == {"3", "30"} for row in found["clients"]["found"].values())
    assert product["stacked_rank"] == 8
    assert product["difference"] < 1e-4
    ranks = {(row["updates"], row["compress"]): row["highest_stacked_rank"] for row in found["compress"]["found"]}
    assert ranks[30, None] == 70
    assert max(rank for (_, tolerance), rank in ranks.items() if tolerance) <= 16
    printed = capsys.readouterr().out
    for method in aggregation.TINY.methods:
        assert method in printed


def test_the_committed_results_are_of_full_size_and_name_their_machine():
    results = json.loads((ROOT / "benchmarks" / "results" / "aggregation.json").read_text())["results"]
    for part in results.values():
        assert part["sizes"] == "full"
        assert part["machine"]["versions"]["torch"]
