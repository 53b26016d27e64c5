"""The folders under examples/, each as its page says, in an empty folder; few rounds, and nothing is measured."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from polyrank import config as configuration
from polyrank import run
from polyrank.aggregation import build
from polyrank.core.errors import ConfigError
from polyrank.federation.planning.beginning import begin

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = [
    *("training.precision=float32", "training.attention=eager", "training.engine=batched", "training.lanes=1"),
    *("training.clients_per_pass=2", "training.workers=1"),
]
SETTINGS = [part for setting in QUICK for part in ("--set", setting)]
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def started(folder: Path, *arguments: str | Path, path: str = "") -> str:
    """What a Python process prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | OFFLINE | ({"PYTHONPATH": path} if path else {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_folder_is_in_the_list():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
    assert sorted(re.findall(r"\| \[(\w+)\]", text)) == folders


def test_hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each hospital is a client; the two large ones train rank 16; what init writes sees the same columns."""
    monkeypatch.chdir(tmp_path)
    started(tmp_path, EXAMPLES / "hospitals" / "make_notes.py")
    with Path("notes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sizes = Counter(row["hospital"] for row in rows)
    config = configuration.load(EXAMPLES / "hospitals" / "study.toml", [*QUICK, "federation.rounds=2"])
    summary = run(config, "run")
    clients = json.loads(Path("run/clients.json").read_text())["clients"]
    assert clients.keys() == sizes.keys()
    assert {name for name, own in clients.items() if own["rank"] == 16} == {"university", "north"}
    assert summary["test/accuracy"] > summary["constant/accuracy"]
    own = begin(configuration.parse({"data": {"train": "notes.csv"}}, "test"), "study.toml").values["data"]
    assert [own[key] for key in ("text", "label", "partition", "column")] == ["note", "ward", "by-column", "hospital"]


def test_budget(tmp_path: Path):
    """Both ranks fit their budgets, and one more would not: an index of a layer is d_in + d_out numbers of 4 bytes."""
    script = EXAMPLES / "budget" / "budget.py"
    said = started(tmp_path, script, *SETTINGS, "--set", "federation.rounds=1", "--set", "evaluation.samples=0")
    low, high = json.loads(re.findall(r"ranks (\[[^]]*\])", said)[0])
    shares = json.loads(re.findall(r"shares (\[[^]]*\])", said)[0])
    assert shares == [0.33, 0.67]
    asked = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert asked["ranks"]["levels"] == [low, high]
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    each = 4 * sum(tensor.shape["lora_A" in name] for name, tensor in adapter.items())
    for rank, budget in ((low, 300_000), (high, 1_200_000)):
        assert rank * each <= budget < (rank + 1) * each


def test_merging(tmp_path: Path):
    """Three methods; the exact one, which stacks, loses nothing and is the one that is kept."""
    said = started(tmp_path, EXAMPLES / "merging" / "merge_teams.py", *QUICK).splitlines()
    errors = {line.partition(":")[0]: float(line.rpartition(" ")[2]) for line in said[-4:-1]}
    assert list(errors) == ["zero_padding", "flexlora", "flora"]
    assert errors["flora"] == 0
    assert errors["flexlora"] < errors["zero_padding"]
    assert said[-1].startswith("flora in PEFT: ")
    assert (tmp_path / "merged" / "adapter_model.safetensors").is_file()


def test_a_method_of_ones_own(tmp_path: Path):
    """Its package is on the path as pip would put it there: listed, run, and its result read by other commands."""
    about = tmp_path / "site" / "polyrank_capped-1.0.0.dist-info"
    about.mkdir(parents=True)
    project = tomllib.loads((EXAMPLES / "own_method" / "pyproject.toml").read_text())["project"]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    path = f"{about.parent}{os.pathsep}{EXAMPLES / 'own_method'}"
    study = EXAMPLES / "own_method" / "study.toml"
    own = ("--set", "federation.rounds=1", "--set", "data.limit_train=120", *SETTINGS)
    started(tmp_path, "-m", "polyrank", "run", study, "--out", "run", *own, path=path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == "capped"
    assert "capped" in started(tmp_path, "-m", "polyrank", "methods", study, path=path)
    with pytest.raises(ConfigError, match="there is no aggregation method 'capped'"):
        build("capped")  # where it is not installed, as here


def test_its_formula(monkeypatch: pytest.MonkeyPatch):
    """Weights 40 and 10 under a cap of 30: (30 * 4 + 10 * 8) / 40 = 5; under one of 5 both count alike: 6."""
    import torch

    from polyrank import Adapter, ClientUpdate, Factors, ServerState
    from tests.conformance.fixtures import conclude

    monkeypatch.syspath_prepend(EXAMPLES / "own_method")
    from capped import Capped

    def line(value: float) -> Adapter:
        return Adapter({"layer": Factors(torch.tensor([[value]]), torch.ones(1, 1))})

    updates = [ClientUpdate("a", line(4.0), 40.0), ClientUpdate("b", line(8.0), 10.0)]
    for most, expected in ((30.0, 5.0), (5.0, 6.0)):
        found = conclude(Capped(most), ServerState(0, line(0.0), {}, {}), updates).adapter
        assert found.modules["layer"].a.item() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="option most: found 0"):
        Capped(0)
    sys.modules.pop("capped", None)
