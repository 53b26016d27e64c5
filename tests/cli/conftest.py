from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyrank.cli import main
from tests import models, writers

ROWS = 60


@dataclass(frozen=True)
class Result:
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Polyrank = Callable[..., Result]


@pytest.fixture
def polyrank(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Polyrank:
    """`polyrank("run", "--out", "x")` in an empty folder, as from a shell."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["polyrank", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        assert isinstance(stopped.value.code, int)
        return Result(stopped.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def own_things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: study.toml, a csv, and a tiny random BERT."""
    folder = tmp_path_factory.mktemp("own")
    models.save(folder / "bert", "bert")
    toy = models.toy(ROWS)
    rows = [f'"{text}",{toy.label_names[label]}' for text, label in zip(toy.texts, toy.labels, strict=True)]
    (folder / "toy.csv").write_text("\n".join(["review,stars", *rows]) + "\n", encoding="utf-8")
    (folder / "study.toml").write_text(
        f"""
        [model]
        name = "{folder / "bert"}"
        [data]
        train = "{folder / "toy.csv"}"
        text = "review"
        label = "stars"
        partition = "iid"
        [federation]
        clients = 4
        participation = 0.5
        rounds = 2
        [ranks]
        policy = "fixed"
        levels = [2, 4]
        counts = [3, 1]
        [training]
        precision = "float32"
        attention = "eager"
        batch_size = 8
        """,
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def writing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as somebody has it whose model writes: study.toml, prompts and completions, and a tiny random Llama."""
    return writers.study(tmp_path_factory.mktemp("writing"))


@pytest.fixture(scope="session")
def written(writing: Path) -> Path:
    """Such a study after its two rounds."""
    from polyrank import config
    from polyrank.runs.runner import run

    run(config.load(writing / "study.toml"), writing / "run")
    return writing / "run"


@pytest.fixture(scope="session")
def classified(own_things: Path) -> Path:
    """The other study after its two rounds."""
    from polyrank import config
    from polyrank.runs.runner import run

    run(config.load(own_things / "study.toml"), own_things / "run")
    return own_things / "run"
