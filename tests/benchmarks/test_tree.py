"""The benchmark of trees runs and its JSON holds; what it measured is not judged here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
@pytest.mark.slow
@pytest.mark.long
def test_it_runs_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A plan for 1000 clients: flat one server has them all, two edges have 500 each, and the root two messages."""
    from benchmarks import tree

    result = tmp_path / "tree.json"
    tree.main(["--tiny", "--result", str(result)])
    found = json.loads(result.read_text())
    assert found["machine"]["cores"]
    assert [row["clients"] for row in found["fold"]["replication"]] == [10, 40]
    ten, forty = found["fold"]["replication"]
    assert forty["bytes_in"] == 4 * ten["bytes_in"]
    assert abs(forty["message_bytes"] - ten["message_bytes"]) < 1000  # but for the names of the clients
    flat, two, four = found["plan"]["replication"]
    assert [row["clients_per_server"] for row in (flat, two, four)] == [1000, 500, 250]
    assert two["bytes_up_edge"] == flat["bytes_up_root"] / 2
    assert four["bytes_up_root"] == pytest.approx(2 * two["bytes_up_root"], rel=0.01)
    assert four["bytes_down_root"] == 2 * two["bytes_down_root"]
    assert found["same"]["replication"]["difference"] < 1e-5
    assert "1,000 clients in a round" in capsys.readouterr().out


def test_the_committed_results_are_of_full_size_and_name_their_machine():
    from benchmarks import tree

    found = json.loads((ROOT / "benchmarks" / "results" / "tree.json").read_text())
    assert found["machine"]["versions"]["torch"]
    assert found["sizes"]["clients"] == tree.FULL.clients
    assert [row["clients"] for row in found["fold"]["replication"]] == list(tree.FULL.counts)
