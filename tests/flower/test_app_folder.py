from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict
from typer.testing import CliRunner

from polyrank import config as configuration
from polyrank.cli import app
from polyrank.core.errors import DataError, FlowerError
from polyrank.federation.population import DEFAULT_CLIENTS
from polyrank.flower import app_folder
from polyrank.flower.server import read_settings
from polyrank.site.switches import SWITCHES
from polyrank.tasks import settled
from tests import writers


def test_the_run_configuration_reads_back_to_the_same_federation(tmp_path: Path):
    """Lists, tables, names and switches; all that is set is there, so that a run may change it."""
    config = configuration.load(
        None,
        [
            *("federation.rounds=3", "ranks.policy=fixed", "ranks.levels=[2, 5, 20]", "ranks.by_name={ann = 20}"),
            *("aggregation.method=tempered", "aggregation.options={gamma = 0.25}", "evaluation.diagnostics=false"),
            *("model.name=some/model", "ranks.shares=[0.5, 0.3, 0.2]"),
        ],
    )
    app_folder.write(tmp_path / "app", config, "runs/here")
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text(encoding="utf-8"))
    found = project["tool"]["flwr"]["app"]["config"]
    flat = flatten_dict(found)  # as Flower does it
    assert flat["training.lr"] == config.training.lr
    assert "data.test" not in flat
    assert flat["federation.clients"] == DEFAULT_CLIENTS
    settings, again = read_settings(flat)
    assert again == configuration.override(settled(config), [f"federation.clients={DEFAULT_CLIENTS}"])
    assert settings.out == str(tmp_path / "app" / "runs" / "here")


def test_what_is_there_is_found_from_wherever_the_superlink_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files and folders beside the study become absolute; a Hub's id and a data set's stay what they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").write_text("text,label\na good one,good\n", encoding="utf-8")
    (tmp_path / "bert").mkdir()
    config = configuration.load(None, ["data.train=reviews.csv", "data.test=#test", "model.name=bert"])
    app_folder.write(Path("app"), config)
    _, found = read_settings(
        flatten_dict(tomllib.loads(Path("app/pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["config"])
    )
    assert (found.data.train, found.data.test) == (str(tmp_path / "reviews.csv"), "#test")
    assert found.model.name == str(tmp_path / "bert")


def test_what_is_learned_is_settled_first(tmp_path: Path):
    """The app names every key: what fits a task and was not set would be a default of another task's."""
    writers.write(tmp_path / "pairs.jsonl", writers.pairs(4))
    config = configuration.load(None, [f"data.train={tmp_path / 'pairs.jsonl'}", "training.lr=0.5"])
    app_folder.write(tmp_path / "app", config)
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text(encoding="utf-8"))
    _, found = read_settings(flatten_dict(project["tool"]["flwr"]["app"]["config"]))
    assert (found.task.name, found.training.lr, found.data.max_tokens) == ("causal-lm", 0.5, 512)
    assert found.model.targets == "all-linear"


def test_data_that_are_elsewhere_tell_no_task(tmp_path: Path):
    config = configuration.load(None, [f"data.train={tmp_path / 'elsewhere.jsonl'}"])
    with pytest.raises(DataError, match=r"elsewhere\.jsonl.*where they are not on this machine set task\.name"):
        app_folder.write(tmp_path / "app", config)
    assert not (tmp_path / "app").exists()
    app_folder.write(tmp_path / "app", configuration.override(config, ["task.name=causal-lm"]))


def test_flowers_installer_has_nothing_to_install(tmp_path: Path):
    """uv is run as Flower runs it, without a network: it resolves to no package at all."""
    app_folder.write(tmp_path / "app", configuration.load())
    command = [sys.executable, "-m", "uv", "sync", "--offline", "--no-install-project", "--inexact"]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "env"), "UV_CACHE_DIR": str(tmp_path / "uv")}
    done = subprocess.run(
        [*command, "--python", sys.executable], cwd=tmp_path / "app", env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not list((tmp_path / "env").rglob("*.dist-info"))


def test_the_command_writes_what_flower_builds(tmp_path: Path):
    """Flower's own check of an app: components, licence, format."""
    from flwr.cli.config_utils import load_and_validate

    result = CliRunner().invoke(app, ["flower", "init", str(tmp_path / "app"), "--set", "federation.rounds=2"])
    assert result.exit_code == 0, result.output
    project, _ = load_and_validate(tmp_path / "app" / "pyproject.toml", check_module=True)
    assert project["tool"]["flwr"]["app"]["components"]["serverapp"] == "polyrank.flower:server_app"


def test_the_guide_and_the_app_name_the_same_switches(tmp_path: Path):
    app_folder.write(tmp_path / "app", configuration.load())
    guide = Path(__file__).parents[2] / "docs" / "flower.md"
    for page in (guide, tmp_path / "app" / "README.md"):
        exports = " ".join(re.findall(r"^    export (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert dict(part.split("=", 1) for part in exports.split()) == SWITCHES


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FlowerError, match="is not empty"):
        app_folder.write(tmp_path, configuration.load())
    with pytest.raises(FlowerError, match=r"mine\.txt is a file; name a new folder for the app, and the configuration"):
        app_folder.write(tmp_path / "mine.txt", configuration.load())
