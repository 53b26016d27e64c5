from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from polyrank import errors
from polyrank.adapter import Adapter, Factors
from polyrank.errors import AdapterError, PolyRankError, SiteError
from polyrank.site import messages
from polyrank.site.worker import Facts, Task
from polyrank.state import ClientUpdate
from polyrank.training.evaluate import Scores
from polyrank.training.job import Penalty


def adapter(dtype: torch.dtype, seed: int = 0) -> Adapter:
    """Ranks 1 and 3, a B that is a view, a scalar and an empty tensor; two names for one memory."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 3, generator=draw).to(dtype)
    modules = {
        "a/b.c": Factors(torch.randn(1, 5, generator=draw).to(dtype), values[:, :1], 0.1),
        "ü": Factors(torch.randn(3, 2, generator=draw).to(dtype), values, 1 / 3),
    }
    return Adapter(
        modules, {"head": torch.tensor(2.5, dtype=dtype), "none": torch.zeros(0, 7, dtype=dtype), "twin": values}
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tasks_and_updates_come_back_to_the_bit(dtype: torch.dtype):
    task = Task("ann", 7, adapter(dtype), 2**70, adapter(dtype, 1), frozenset({"a"}), Penalty(2, 1e-3))
    header, body = messages.train_request(task)
    request = messages.read_request(header)
    assert isinstance(request, messages.TrainRequest)
    found = messages.task_of(request, body)
    assert found.adapter.identical(task.adapter)
    assert found.base_change is not None
    assert found.base_change.identical(adapter(dtype, 1))
    assert (found.client, found.round, found.seed, found.trains, found.penalty) == (
        "ann", 7, 2**70, frozenset({"a"}), Penalty(2, 1e-3)
    )  # fmt: skip

    update = ClientUpdate("ann", adapter(dtype), 12.5, {"loss": 0.1 + 0.2, "steps": 3})
    again = messages.read_update(*messages.update_reply(update))
    assert again.adapter.identical(update.adapter)
    assert (again.client, again.weight, again.metrics) == ("ann", 12.5, {"loss": 0.1 + 0.2, "steps": 3})


def test_facts_and_scores_come_back():
    facts, scores = Facts(3, (1, 2), {"q": (4, 5)}, ("a", "b")), Scores(0.1, 0.2, 1 / 3)
    assert messages.read_facts(*messages.facts_reply(facts)) == facts
    assert messages.read_scores(*messages.scores_reply(scores)) == scores


@pytest.mark.parametrize("kind", [AdapterError, errors.ConfigError, errors.WorkerError, SiteError])
def test_an_error_is_raised_again_as_what_it_was(kind: type[PolyRankError]):
    header, _ = messages.error_reply(kind("found 3"), "x")
    with pytest.raises(kind, match=r"^found 3$"):
        messages.raise_error(header)


@pytest.mark.parametrize("kind", ["annotations", "Iterable", "difflib", "nothing", "__doc__"])
def test_no_other_name_of_the_errors_is_ever_raised(kind: str):
    with pytest.raises(SiteError, match=r"^boo$"):
        messages.raise_error({"error": {"kind": kind, "message": "boo"}})


def test_tensors_that_were_not_described_are_refused():
    header, body = messages.train_request(Task("ann", 0, adapter(torch.float32), 0))
    del header["adapter"]["scales"]["ü"]
    request = messages.read_request(header)
    assert isinstance(request, messages.TrainRequest)
    with pytest.raises(AdapterError, match=r"unknown: \['adapter/ü\.a'"):
        messages.task_of(request, body)


def test_a_reply_of_another_kind_is_said():
    with pytest.raises(SiteError, match="replied scores; expected update"):
        messages.read_update(*messages.scores_reply(Scores(0, 0, 0)))


def test_a_client_of_a_daemon_loads_no_transformers():
    """It starts anew for every message of a deployment."""
    code = "import sys, polyrank.site.client; sys.exit(any(n in sys.modules for n in ('transformers', 'peft', 'flwr')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
