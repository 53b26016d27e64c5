"""A pass that is replayed from fixed places gives what another gives; `tests/training/test_gpu.py` captures it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from polyrank.config import TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.classification import Classification
from polyrank.training.batched import recorded
from polyrank.training.batched.engine import Batched
from polyrank.training.batched.recorded import Recording
from polyrank.training.work import Penalty, Proximal, Work
from tests.models import TASK, Checkpoints, random_adapter, resident, updates
from tests.training.batched.test_engine import DROPOUT, RECIPES, asked, distance, held

ROUNDS = 3
"""In the first one shapes are met, in the second they are recorded (some in the first already), then replayed."""


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of the parts that were replayed, those with which something was recorded left out."""
    seen: list[int] = []
    original = Recording.load

    def load(self: Recording, adapters: object, part: object) -> None:
        seen.append(part.tokens)  # type: ignore[attr-defined]
        original(self, adapters, part)  # type: ignore[arg-type]

    made = recorded.Recordings._recorded

    def record(*of: object) -> Recording | None:
        found = made(*of)  # type: ignore[arg-type]
        if seen:
            seen.pop()
        return found

    monkeypatch.setattr(Recording, "load", load)
    monkeypatch.setattr(recorded.Recordings, "_recorded", record)
    return seen


def trained(
    model: ResidentModel, works: Sequence[Work], task: Task = TASK, **recipe: object
) -> dict[bool, list[ClientUpdate]]:
    """Whether recorded -> what the clients come to after some rounds of an engine."""
    found = {}
    for graphs in (False, True):
        options = TrainingConfig(**{"batch_size": 4, "lr": 1e-2, "cuda_graphs": graphs} | recipe)
        engine, current = Batched(model, task, held(model), options, 3), list(works)
        for number in range(ROUNDS):
            after = updates(engine, [replace(work, seed=work.seed + 100 * number) for work in current])
            current = [replace(work, adapter=update.adapter) for work, update in zip(works, after, strict=True)]
        found[graphs] = after
    return found


def off(found: Mapping[bool, Sequence[ClientUpdate]], works: Sequence[Work]) -> float:
    for one, other in zip(found[False], found[True], strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-6)
    pairs = zip(found[True], found[False], works, strict=True)
    return max(distance(one.adapter, other.adapter, work.adapter) for one, other, work in pairs)


@pytest.mark.parametrize(("recipe", "attention"), [("everything", "eager"), ("sgd", "sdpa")])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "llama"])
def test_as_without(checkpoint: Checkpoints, replays: list[int], architecture: str, recipe: str, attention: str):
    """In float64, with dropout in the model and before A, unequal ranks, steps, batches and lengths."""
    model = resident(
        checkpoint(architecture),
        **{"dtype": torch.float64, "attention": attention, "dropout": 0.1, "config": DROPOUT[architecture]},
    )
    works = asked(model)
    assert off(trained(model, works, **RECIPES[recipe]), works) < 1e-10
    assert len(replays) > 3


@pytest.mark.parametrize(
    "options",
    [
        {"trains": frozenset({"b", "head"})},
        {"penalty": Penalty(1, 0.1)},
        {"proximal": Proximal(0.3, frozenset({"a", "b"}))},
    ],
    ids=["kept", "penalty", "proximal"],
)
def test_what_a_work_may_ask_for(checkpoint: Checkpoints, replays: list[int], options: dict[str, object]):
    """What is not trained, and is another in each round; what is added to the gradients beside the pass."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = [
        replace(
            work,
            adapter=Adapter(
                {n: replace(f, scale=0.5 * (i % 2 + 1)) for n, f in work.adapter.modules.items()}, work.adapter.dense
            ),
        )
        for i, work in enumerate(asked(model, **options))
    ]
    assert off(trained(model, works), works) < 1e-10
    assert replays


def test_bfloat16(checkpoint: Checkpoints, replays: list[int]):
    """As near as rounding lets it be: what is padded further is summed in another order."""
    model = resident(checkpoint("bert"), dtype=torch.bfloat16)
    works = asked(model)
    found = trained(model, works, optimizer="sgd", lr=1e-3)
    pairs = zip(found[True], found[False], works, strict=True)
    assert max(distance(one.adapter, other.adapter, work.adapter) for one, other, work in pairs) < 0.05
    assert replays


def test_base_changes_are_computed_as_ever(checkpoint: Checkpoints, replays: list[int]):
    model = resident(checkpoint("bert"), dtype=torch.float64)
    change = Adapter(random_adapter(model, 9, rank=2, uneven=False).modules)
    works = asked(model, base_change=change)
    assert off(trained(model, works), works) == 0
    assert not replays


def test_a_task_whose_operations_differ_is_computed_as_ever(checkpoint: Checkpoints, replays: list[int]):
    class Other(Classification):
        fixed = False

    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = asked(model)
    assert off(trained(model, works, Other()), works) == 0
    assert not replays


def test_what_cannot_be_recorded_is_said_and_computed_as_ever(
    checkpoint: Checkpoints, replays: list[int], caplog: pytest.LogCaptureFixture
):
    """Alone in its pass a client may draw from torch's generator, which a recording would replay."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    layer = model.model.bert.encoder.layer[0]
    layer.register_forward_hook(lambda _, __, out: functional.alpha_dropout(out, 0.1, training=True))
    (work,) = asked(model)[1:2]
    with caplog.at_level(logging.WARNING):
        assert off(trained(model, [work]), [work]) == 0
    assert "steps are not recorded" in caplog.text
    assert not replays


def test_another_attention_is_another_recording(checkpoint: Checkpoints, replays: list[int]):
    model = resident(checkpoint("bert"), dtype=torch.float64)
    options = TrainingConfig(batch_size=4, lr=1e-2, cuda_graphs=True)
    engine, works = Batched(model, TASK, held(model), options, 3), asked(model)
    for _ in range(ROUNDS):
        updates(engine, works)
    count = len(replays)
    assert engine._recordings is not None
    before = set(engine._recordings._held)
    model.set_attention("sdpa" if model.attention == "eager" else "eager")
    updates(engine, works)
    assert len(replays) == count
    updates(engine, works)
    assert set(engine._recordings._held) > before


def test_few_are_held(checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    """The one that was not used for longest goes, and is recorded again when it is met."""
    monkeypatch.setattr(recorded, "MOST", 2)
    monkeypatch.setattr(recorded, "TOKENS", 1)
    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = asked(model)
    assert off(trained(model, works), works) < 1e-10
