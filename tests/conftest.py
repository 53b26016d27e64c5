from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in the processes of tests
os.environ["POLYRANK_CACHE"] = ""  # no choice is remembered from one test to another, nor in the user's folder
os.environ["RAY_ADDRESS"] = "local"  # Flower's simulation would join the cluster of another test, or of whoever tests

import pytest
import torch

from polyrank import config as configuration
from polyrank.config import Config
from tests import models
from tests.models import Checkpoints

Configure = Callable[..., Config]

EXAMPLES = 240
"""Rows of the csv; the default share of 0.2 leaves 192 to train on and 48 to test on."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each reason why tests are skipped, and not one for each of them."""
    reasons = Counter(" ".join(report.longrepr[2].split()) for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


CROWDED = ("tests/deployment/", "tests/end_to_end/")
"""Folders of tests that start many processes, wait for them and time them: one at a time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:  # Any: a logger of xdist's own kind
    """What stays in one process of several: a file, whose tests share fixtures, or one of the `CROWDED` folders."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((folder for folder in CROWDED if nodeid.startswith(folder)), super()._split_scope(nodeid))

    return Scheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny models only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def configure(tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """`configure("training.lr=0.1", ...)`: six clients of ranks 4, 4, 2, 2, 2, 2 on a tiny BERT, three in a round."""
    folder = tmp_path_factory.mktemp("federation")
    model = models.save(folder / "bert", "bert")
    toy = models.toy(EXAMPLES)
    table = folder / "toy.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "owner"])
        owners = ("ann", "bob", "eve")
        rows.writerows(
            [text, toy.label_names[label], owners[i % 3]]
            for i, (text, label) in enumerate(zip(toy.texts, toy.labels, strict=True))
        )
    base = configuration.parse(
        {
            "model": {"name": str(model)},
            "data": {"train": str(table), "partition": "iid"},
            "federation": {"clients": 6, "participation": 0.5, "rounds": 3},
            "ranks": {"policy": "fixed", "levels": [2, 4], "counts": [4, 2]},
            "training": {  # nothing is measured, so that two runs are the same to the bit
                **{"precision": "float32", "attention": "eager", "batch_size": 8, "lr": 5e-3},
                **{"engine": "batched", "clients_per_pass": 2, "lanes": 1, "workers": 1},
            },
            "evaluation": {"rank_groups": False},
        },
        "tests",
    )

    def made(*overrides: str) -> Config:
        return configuration.override(base, overrides)

    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """``checkpoint("bert", pooler=False)`` is a folder with such a model; each kind is made once."""
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


SECURE = ("secure.enabled=true", "federation.participation=1.0", "ranks.levels=[2,5,20]", "ranks.counts=[2,2,2]")


@pytest.fixture(scope="session")
def secure(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Six clients of ranks 20, 20, 5, 5, 2, 2 on a BERT just wide enough, all in each round."""
    model = models.save(tmp_path_factory.mktemp("wide") / "bert", "bert", hidden_size=24, intermediate_size=32)

    def made(*overrides: str) -> Config:
        return configure(*SECURE, f'model.name="{model}"', *overrides)

    return made
