from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import polyrank
from polyrank.config import Config, DataConfig, TaskConfig
from polyrank.core.errors import ConfigError, DataError
from polyrank.federation import population
from polyrank.tasks import TASKS, Task, settled
from polyrank.tasks import task as named
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import LOSS
from tests import writers

PACKAGE = Path(polyrank.__file__).parent


def test_by_name():
    def task(config: TaskConfig) -> Task:
        return named(Config(task=config))

    assert task(TaskConfig(name="classification")) == Classification()
    with pytest.raises(ConfigError, match="there is no task 'clasification': did you mean 'classification'"):
        task(TaskConfig(name="clasification"))
    with pytest.raises(ConfigError, match="task classification has no option 'classes': it has no options"):
        task(TaskConfig(name="classification", options={"classes": 3}))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_measures_its_loss(name: str):
    """Clients are scored by it, and less of it is better; names and titles are told apart."""
    metrics = TASKS[name].metrics
    (loss,) = (metric for metric in metrics if metric.name == LOSS)
    assert loss.better == "lower"
    assert len({metric.name for metric in metrics}) == len({metric.title for metric in metrics}) == len(metrics)
    assert all(metric.about for metric in metrics if metric.curve)


def test_nothing_but_a_task_knows_its_metrics():
    """What compares, shows or sums up runs asks the task; the loss is every task's."""
    names = {metric.name for cls in TASKS.values() for metric in cls.metrics} - {LOSS}
    titles = {metric.title for cls in TASKS.values() for metric in cls.metrics} - {LOSS}
    words = re.compile("|".join(map(re.escape, names | titles)), re.IGNORECASE)
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "tasks"
        for line in path.read_text(encoding="utf-8").splitlines()
        if words.search(line)
    ]
    assert not found


def test_training_knows_no_task():
    """It is given one; only the registry knows which there are."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "tasks":
            assert "tasks.classification" not in path.read_text(encoding="utf-8"), path


class TestWhatTheColumnsSay:
    def of(self, folder: Path, row: dict[str, str], **data: object) -> str:
        file = folder / "own.jsonl"
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        return settled(Config(data=DataConfig(train=str(file), **data))).task.name  # type: ignore[arg-type]

    def test_which_task_it_is(self, tmp_path: Path):
        assert self.of(tmp_path, {"text": "a", "label": "b"}) == "classification"
        assert self.of(tmp_path, {"text": "a", "source": "b"}) == "classification"
        assert self.of(tmp_path, {"text": "a"}) == "causal-lm"
        assert self.of(tmp_path, {"instruction": "a", "output": "b", "label": "c"}) == "causal-lm"
        assert self.of(tmp_path, {"q": "a", "a": "b"}, prompt="q", completion="a") == "causal-lm"

    def test_of_both_kinds(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        row = {"text": "a", "label": "b", "prompt": "c", "completion": "d"}
        assert self.of(tmp_path, row) == "classification"
        assert "and of a model that writes (prompt): it is taken for the former" in caplog.text

    def test_of_neither(self, tmp_path: Path):
        with pytest.raises(DataError, match=r"columns found: 'q', 'a'\. Name those .*data\.prompt and data\.compl"):
            self.of(tmp_path, {"q": "a", "a": "b"})

    def test_of_the_other_kind(self, tmp_path: Path):
        file = writers.write(tmp_path / "pairs.jsonl", writers.pairs(4))
        config = Config(data=DataConfig(train=str(file)), task=TaskConfig(name="classification"))
        with pytest.raises(DataError, match=r"no column 'text' to classify, but .*prompt.*task.name = 'causal-lm'"):
            population.load_data(config)
