"""The commands that README shows, each exactly as it is written, in a folder that has what they name.

`make quickstart` and `make test` are what `.ci/run` runs.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from benchmarks.deployment import QUIET, Simulation
from peft import LoraConfig, get_peft_model

from tests import models
from tests.end_to_end.test_readme import ROOT, blocks

SECONDS = 600
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r" {2,}#.*", "", line[4:]) for line in README.splitlines() if re.match(r"    (polyrank|flwr|make) ", line)
]
"""In README's order, without what is said beside them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """README's study, its data and its model under their names, small; three adapters."""
    made = tmp_path_factory.mktemp("readme")
    (study,) = blocks("README.md", "toml")
    (made / "study.toml").write_text(study, encoding="utf-8")
    base = reviews(made)
    for number, name in enumerate(("law", "medicine", "news")):
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        config = LoraConfig(task_type="SEQ_CLS", r=2 + number, target_modules=["q_lin"], init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(made / "adapters" / name)
    return made


def reviews(folder: Path) -> Path:
    """`reviews.csv` and a small model under the name of a large one, which is returned."""
    toy = models.toy(500)
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "stars"])
        rows.writerows([text, toy.label_names[label]] for text, label in zip(toy.texts, toy.labels, strict=True))
    return models.save(folder / "distilbert" / "distilbert-base-uncased", "distilbert")


def run(command: str, folder: Path) -> str:
    """In a shell, as somebody types it."""
    environment = os.environ | QUIET | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


COMPARE = ("polyrank compare", "polyrank report")
FLOWER = "polyrank flower"
QUICKSTARTS = ("polyrank run", "polyrank run --quickstart generative")
"""The first is what `make quickstart` does, the second is tested in test_quickstart.py."""
OTHERS = [command for command in COMMANDS if not command.startswith(("make", FLOWER, *COMPARE))]
QUICK = [command for command in OTHERS if command not in QUICKSTARTS]


def test_all_of_them_are_here():
    assert [command for command in COMMANDS if command.startswith("make")] == ["make quickstart", "make test"]
    assert len([command for command in COMMANDS if command.startswith(COMPARE)]) == 2
    assert len([command for command in COMMANDS if command.startswith(FLOWER)]) == 1
    assert [command for command in OTHERS if command in QUICKSTARTS] == list(QUICKSTARTS)
    assert len(QUICK) == 4


@pytest.mark.slow
def test_the_study_runs_and_is_looked_at(folder: Path):
    for command in QUICK:
        run(command, folder)
    summary = json.loads((folder / "runs" / "study" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rounds"], summary["clients"]) == (25, 100)
    for adapter in ("adapter", "merged"):
        assert (folder / adapter / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_comparison_is_made_and_reported(folder: Path):
    for command in COMMANDS:
        if command.startswith(COMPARE):
            run(command, folder)
    assert list((folder / "runs" / "methods").rglob("*.html"))


@pytest.mark.slow
def test_the_study_runs_on_flower(folder: Path, tmp_path: Path):
    """On the nodes that Flower simulates by itself, with its own switches, and offline: 100 clients, 25 rounds."""
    (command,) = [command for command in COMMANDS if command.startswith(FLOWER)]
    with Simulation(tmp_path) as call:
        del call.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"]
        said = call("bash", "-c", command, cwd=folder, seconds=SECONDS)
    summary = folder / "app" / "runs" / "flower" / "summary.json"
    assert summary.is_file(), said
    found = json.loads(summary.read_text(encoding="utf-8"))
    assert (found["rounds"], found["clients"], found["dropped"]) == (25, 100, 0)
