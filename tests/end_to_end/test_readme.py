"""What the README and the guides show is run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from polyrank import config

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def printed(page: str, folder: Path) -> list[str]:
    """The lines that the one example of a page prints."""
    (example,) = blocks(page, "python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path):
    lines = printed("README.md", tmp_path)
    assert [line.split()[0] for line in lines[:5]] == ["1", "2", "3", "4", "5"]
    assert lines[5].startswith("best constant answer: 0.")
    assert lines[6]


@pytest.mark.slow
def test_the_comparison_in_python_runs(tmp_path: Path):
    lines = printed("docs/comparing.md", tmp_path)
    assert [line.split(" 0.")[0] for line in lines] == ["replication", "tempered gamma=0.25"]


def test_the_configuration_is_valid():
    levels = [config.parse(tomllib.loads(example), "README.md").ranks.levels for example in blocks("README.md", "toml")]
    assert levels == [[4, 8, 16]]
