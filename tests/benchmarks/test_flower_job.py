"""What Flower's side trains is what PolyRank trains, so that speed and accuracy can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.flower_job import recipe
from torch import Tensor, nn

from benchmarks import versus_flower
from polyrank import config as configuration
from polyrank.core.adapter import Adapter
from polyrank.core.seeds import derive
from polyrank.federation.loading import participant
from polyrank.federation.population import initial
from polyrank.training import batches
from polyrank.training.work import Work
from tests.models import updates

SMALL = ("data.limit_train=600", "federation.clients=10", "federation.participation=0.5", "data.size=20")
FIXED = ("training.engine=sequential", "training.workers=1", "training.precision=float32", "training.attention=sdpa")


def tensors(model: nn.Module, like: Adapter) -> dict[str, Tensor]:
    """The plain model's trained parameters under the adapter's names."""
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: dict[str, Tensor] = {}
    for name in like.modules:
        for factor, part in (("a", "lora_A"), ("b", "lora_B")):
            (found[f"{name}.{factor}"],) = (p for n, p in own.items() if f".{name}.{part}." in n)
    for name in like.dense:
        module, _, attribute = name.rpartition(".")
        (found[name],) = (p for n, p in own.items() if f".{module}." in n and n.endswith(f".{attribute}"))
    return found


def test_both_sides_start_alike_and_learn_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Equal clients and initial adapters; PyTorch's loop in the same order of examples ends where PolyRank does."""
    plan = versus_flower.Plan("J2", "none", 0, 0, 0, versus_flower.POLYRANK, 2)
    places = versus_flower.Places(tmp_path, None, None, None, 1, (*SMALL, *FIXED))
    config = versus_flower.config_of(plan, places)
    path = tmp_path / "job.toml"
    path.write_text(configuration.dump(config), encoding="utf-8")
    job, model, site = recipe.work(str(path)), recipe.build(str(path)), participant(config)
    for name, theirs in zip(sorted(site.examples), job.clients, strict=True):
        ours = site.examples[name]
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        assert all(np.array_equal(a, b) for a, b in zip(ours.tokens, theirs.tokens, strict=True))

    start = initial(site.resident, site.config)
    found = tensors(model, start)
    for name, tensor in start.tensors():
        assert torch.equal(found[name], tensor), name

    (update,) = updates(site.engine, [Work(min(site.examples), 1, start, derive(0, "any"))])

    order = batches.plan(len(job.clients[0]), config.training.batch_size, config.training.epochs, derive(0, "any"))
    monkeypatch.setattr(recipe, "DataLoader", lambda *_, **__: [recipe.collate(job.clients[0], list(b)) for b in order])
    recipe.fit(model, job.clients[0], config, 0)
    for name, tensor in update.adapter.tensors():
        torch.testing.assert_close(found[name].detach(), tensor, rtol=1e-3, atol=1e-5, msg=name)
