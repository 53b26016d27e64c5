"""The parts of examples/own_parts in a federation, under the names of their entry points."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import PolyRankError, run
from polyrank.core.registry import Registry
from polyrank.data import PARTITIONS, TextDataset, partition
from polyrank.ranks import POLICIES
from polyrank.tasks import TASKS
from tests.conftest import Configure

FOLDER = Path(__file__).parents[2] / "examples" / "own_parts"
POINTS: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "entry-points"
]
REGISTRIES: dict[str, Registry[Any]] = {
    "polyrank.rank_policies": POLICIES,
    "polyrank.partitions": PARTITIONS,
    "polyrank.tasks": TASKS,
}


def loaded(point: str) -> Any:
    module, _, name = point.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package were: each class in the registry of its group, under the name of its entry point."""
    monkeypatch.syspath_prepend(str(FOLDER))
    assert POINTS.keys() == REGISTRIES.keys()
    for group, registry in REGISTRIES.items():
        for name, point in POINTS[group].items():
            monkeypatch.setitem(registry._classes, name, loaded(point))
    yield
    for name in ("by_list", "by_length", "graded"):
        sys.modules.pop(name, None)


def about(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_ranks_from_an_inventory(configure: Configure, tmp_path: Path):
    """Six clients of two levels, as the file says and not in the order of their names; a wrong line is said."""
    inventory = tmp_path / "inventory.csv"
    ranks = {f"client-{i:02d}": 4 if i in (1, 4) else 2 for i in range(6)}
    inventory.write_text("client,rank\n" + "".join(f"{name},{rank}\n" for name, rank in ranks.items()))
    config = configure("ranks.policy=by_list", f"ranks.options={{file='{inventory}'}}", "federation.rounds=1")
    run(config, tmp_path / "run")
    clients = about(tmp_path / "run", "clients.json")["clients"]
    assert {name: client["rank"] for name, client in clients.items()} == ranks
    inventory.write_text("client,rank\nclient-00,3\n")
    with pytest.raises(PolyRankError, match=r"client client-00 has rank 3; expected one of \[2, 4\]"):
        run(config, tmp_path / "other")
    inventory.write_text("client,rank\nclient-00,2\n")
    with pytest.raises(PolyRankError, match="has no client client-01"):
        run(config, tmp_path / "other")
    inventory.unlink()
    with pytest.raises(PolyRankError, match="expected a csv with the columns client and rank"):
        run(config, tmp_path / "other")


def test_clients_of_short_and_of_long_texts(configure: Configure, tmp_path: Path):
    """Texts of lengths 5, 1, 3, 3, 9 over two clients: 1, 3, 3 and 5, 9. No text has two owners, mixed or not."""
    data = TextDataset(("aaaaa", "b", "ccc", "ddd", "eeeeeeeee"), np.zeros(5, dtype=np.int64), ("x",))
    found = partition(data, "by-length", 2, seed=0)
    assert {client: at.tolist() for client, at in found.examples.items()} == {
        "client-00": [1, 2, 3],
        "client-01": [0, 4],
    }
    mixed = partition(data, "by-length", 2, seed=0, options={"mixed": 1.0}).examples.values()
    assert sorted(np.concatenate(list(mixed)).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(PolyRankError, match=r"found 2\.0; expected a share from 0 to 1"):
        partition(data, "by-length", 2, seed=0, options={"mixed": 2.0})
    summary = run(configure("data.partition=by-length", "federation.rounds=1"), tmp_path / "run")
    assert summary["clients"] == 6


def test_grades(configure: Configure, tmp_path: Path):
    """Measured and reported as any task, and the distance of two classes is the share of wrong answers."""
    summary = run(configure("task.name=graded", "federation.rounds=1"), tmp_path / "run")
    assert summary["test/distance"] == pytest.approx(1 - summary["test/accuracy"])
    assert summary["best/distance"] <= summary["test/distance"]
    assert about(tmp_path / "run", "run.json")["task"] == "graded"


def test_the_distance_that_was_worked_out():
    """Of grades 0, 0, 2 two are taken for 0 and 1, and the last for 0: (0 + 1 + 2) / 3 = 1."""
    from polyrank.tasks.task import Tally

    confusion = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    graded = loaded("graded:Graded")()
    assert graded.measured(Tally({"nats": 0.0, "confusion": confusion}))["distance"] == 1.0
