"""The engines on a GPU, where there is one; `tests/training/batched/test_engine.py` has more on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyrank import config as configuration
from polyrank.config import TrainingConfig
from polyrank.core.state import ClientUpdate
from polyrank.hf.resident import ResidentModel
from polyrank.runs.runner import run
from polyrank.training.batched.recorded import Pool, Recording
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.planner import choose
from tests.models import TASK, Checkpoints, resident, updates
from tests.training.batched.test_engine import ARCHITECTURES, DROPOUT, RECIPES, asked, batched, both, distance, held
from tests.training.batched.test_recorded import off, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = "cuda"
NO_DROPOUT = {name: dict.fromkeys(settings, 0.0) for name, settings in DROPOUT.items()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_equals_sequential(checkpoint: Checkpoints, architecture: str, recipe: str, attention: str):
    """In float64 to 1e-10, with dropout, for unequal ranks, steps, batches and lengths."""
    model = resident(
        checkpoint(architecture),
        **{"dtype": torch.float64, "attention": attention, "device": DEVICE},
        **{"dropout": 0.1, "config": DROPOUT[architecture]},
    )
    for per_pass in (1, 3, 4):
        assert max(both(model, asked(model), per_pass, **RECIPES[recipe])) < 1e-10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_after_five_rounds(checkpoint: Checkpoints, architecture: str):
    model = resident(checkpoint(architecture), device=DEVICE, dropout=0.1, config=DROPOUT[architecture])
    assert max(both(model, asked(model), 4, rounds=5, optimizer="sgd", lr=1e-3)) < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gpu_gives_what_the_cpu_gives(checkpoint: Checkpoints, architecture: str):
    """Without dropout, whose masks differ between devices."""

    def trained(device: str) -> tuple[ResidentModel, list[ClientUpdate]]:
        model = resident(checkpoint(architecture), device=device, dtype=torch.float64, config=NO_DROPOUT[architecture])
        return model, batched(model, asked(model), TrainingConfig(batch_size=4, epochs=2))

    (model, here), (_, there) = trained("cpu"), trained(DEVICE)
    for work, one, other in zip(asked(model), here, there, strict=True):
        assert distance(other.adapter, one.adapter, work.adapter) < 1e-6  # rotary embeddings are computed in float32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_graph_gives_what_its_pass_gives(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch, architecture: str, attention: str
):
    """In float64 to 1e-10, with dropout; and passes are captured, and replayed for other batches and values."""
    captured: list[Recording] = []
    original = Recording.capture

    def capture(self: Recording, pool: Pool) -> None:
        original(self, pool)
        captured.append(self)

    monkeypatch.setattr(Recording, "capture", capture)
    model = resident(
        checkpoint(architecture),
        **{"dtype": torch.float64, "attention": attention, "device": DEVICE},
        **{"dropout": 0.1, "config": DROPOUT[architecture]},
    )
    works = asked(model)
    assert off(trained(model, works), works) < 1e-10
    assert captured


def test_a_client_with_nan_does_not_touch_the_others(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), device=DEVICE, dropout=0.1)
    works, options = asked(model), TrainingConfig(batch_size=4)
    good = batched(model, works, options)
    works[1] = replace(works[1], adapter=works[1].adapter.map(lambda t: torch.full_like(t, torch.nan)))
    for update, before in zip(batched(model, works, options), good, strict=True):
        assert (
            bool(update.adapter.first_not_finite())
            if update.client == "c2"
            else update.adapter.identical(before.adapter)
        )


def test_the_planner_measures_and_the_base_is_left_as_it_was(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), device=DEVICE)
    options, works = TrainingConfig(batch_size=4, precision="float32", attention="sdpa"), asked(model)
    engine = Sequential(model, TASK, held(model), options)
    first = updates(engine, works)
    plan = choose(lambda *_: model, TASK, held(model), options, lambda _: works, rounds=100).plan
    assert plan.engine == "batched"
    assert plan.clients_per_pass in {1, 2, 4}
    assert plan.workers == 1
    again = updates(engine, works)
    assert all(one.adapter.identical(other.adapter) for one, other in zip(first, again, strict=True))


def test_a_run_of_the_quickstart(tmp_path: Path):
    """Precision, attention and engine are measured; the run ends, and says where its time went."""
    few = ("federation.rounds=2", "data.limit_train=2000", "data.limit_test=100", "federation.clients=20")
    run(configuration.load(None, list(few)), tmp_path / "run", profile=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["time"]["arithmetic"] > 0
