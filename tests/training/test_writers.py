"""Models that write, in both engines and under every method."""

from __future__ import annotations

import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.training.batched.engine import Batched
from polyrank.training.dropout import UnbatchableError
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests import writers
from tests.models import random_adapter, updates
from tests.training.batched.test_engine import distance
from tests.writers import TASK

DROPOUT = {
    "gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "gpt_neox": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "phi3": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1},
}
RANKS = {"a": 2, "b": 4, "c": 3}
SIZES = {"a": 5, "b": 12, "c": 8}
"""Unequal numbers of examples, and of answer tokens in them."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return writers.Checkpoints(tmp_path_factory.mktemp("writers"))


def loaded(checkpoints, architecture):
    config = DROPOUT.get(architecture, {"attention_dropout": 0.1})
    folder = checkpoints(architecture, **config)
    return writers.resident(folder, dtype=torch.float64, attention="sdpa", dropout=0.1)


def held(model):
    everything = writers.examples(model, sum(SIZES.values()))
    found, start = {}, 0
    for client, size in SIZES.items():
        found[client] = everything.subset(range(start, start + size))
        start += size
    return found


@pytest.mark.parametrize("architecture", [name for name in writers.CONFIGS if name != "opt"])
def test_batched_equals_sequential(checkpoints, architecture):
    model = loaded(checkpoints, architecture)
    examples, options = held(model), TrainingConfig(batch_size=6, lr=1e-3)
    works = [
        Work(client, 1, random_adapter(model, i, rank=rank, uneven=False), seed=i)
        for i, (client, rank) in enumerate(RANKS.items())
    ]
    alone = updates(Sequential(model, TASK, examples, options), works)
    together = updates(Batched(model, TASK, examples, options, 3), works)
    for work, one, other in zip(works, alone, together, strict=True):
        assert distance(other.adapter, one.adapter, work.adapter) < 1e-10
        assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-10)


def test_opt_is_not_batched(checkpoints):
    model = loaded(checkpoints, "opt")
    options = TrainingConfig(batch_size=6)
    works = [Work(client, 1, random_adapter(model), seed=0) for client in ("a", "b")]
    with pytest.raises(UnbatchableError, match="whose rows are not examples"):
        updates(Batched(model, TASK, held(model), options, 2), works)
    model.model.eval()
    assert len(updates(Sequential(model, TASK, held(model), options), works)) == 2
