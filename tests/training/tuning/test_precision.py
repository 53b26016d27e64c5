from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.core.errors import ModelError
from polyrank.hf.resident import ResidentModel
from polyrank.training.tuning import precision as auto
from polyrank.training.tuning.precision import fastest
from tests.models import TASK, Checkpoints, examples, resident

Timings = dict[tuple[str, str], float]


class Loader:
    """Loads as a federation does, and keeps count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[torch.dtype] = []

    def __call__(self, dtype: torch.dtype, attention: str) -> ResidentModel:
        self.loaded.append(dtype)
        model = resident(self.folder, head="model", dtype=dtype, attention=attention)
        model.install(model.initial(2, 2.0, 0))
        return model


def form(model: ResidentModel) -> tuple[str, str]:
    """Precision and attention of a model as it is."""
    dtype = next(p.dtype for p in model.model.parameters() if not p.requires_grad)
    return str(dtype).removeprefix("torch."), model.model.config._attn_implementation


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Timings], list[tuple[str, str]]]:
    """Prescribe seconds for each form, and get a list that tells what was measured."""

    def prescribe(seconds: Timings) -> list[tuple[str, str]]:
        measured: list[tuple[str, str]] = []

        def step(model: ResidentModel, *_: object) -> float:
            measured.append(form(model))
            return seconds[measured[-1]]

        monkeypatch.setattr(auto, "_step_seconds", step)
        return measured

    return prescribe


@pytest.mark.parametrize(
    ("precision", "attention"), [("float32", "eager"), ("float32", "sdpa"), ("bfloat16", "eager"), ("bfloat16", "sdpa")]
)
def test_a_fixed_choice_is_not_measured(
    checkpoint: Checkpoints, measure: Callable[[Timings], list[tuple[str, str]]], precision: str, attention: str
):
    measured = measure({})
    load = Loader(checkpoint("bert"))
    options = TrainingConfig(precision=precision, attention=attention)
    choice = fastest(load, TASK, options, examples(load(torch.float32, "eager")))
    assert (choice.precision, choice.attention) == form(choice.resident) == (precision, attention)
    assert choice.seconds is None
    assert not measured
    assert len(load.loaded) == 2


FORMS = [("bfloat16", "sdpa"), ("bfloat16", "eager"), ("float32", "sdpa"), ("float32", "eager")]


@pytest.mark.parametrize("best", FORMS)
def test_the_fastest_is_taken(
    checkpoint: Checkpoints, measure: Callable[[Timings], list[tuple[str, str]]], best: tuple[str, str]
):
    measured = measure({one: 0.1 if one == best else 0.2 for one in FORMS})
    load = Loader(checkpoint("bert"))
    choice = fastest(load, TASK, TrainingConfig(), examples(load(torch.float32, "eager")))
    assert measured == FORMS
    assert (choice.precision, choice.attention) == form(choice.resident) == best
    assert choice.seconds == 0.1
    assert load.loaded[1:] == [torch.bfloat16, torch.float32]


def test_only_what_is_open_is_measured(checkpoint: Checkpoints, measure: Callable[[Timings], list[tuple[str, str]]]):
    measured = measure(dict.fromkeys(FORMS, 0.1))
    load = Loader(checkpoint("bert"))
    data = examples(load(torch.float32, "eager"))
    fastest(load, TASK, TrainingConfig(precision="float32"), data)
    assert measured == [("float32", "sdpa"), ("float32", "eager")]
    measured.clear()
    fastest(load, TASK, TrainingConfig(attention="sdpa"), data)
    assert measured == [("bfloat16", "sdpa"), ("float32", "sdpa")]


def test_an_architecture_without_sdpa(checkpoint: Checkpoints, measure: Callable[[Timings], list[tuple[str, str]]]):
    """Where the choice is open, eager is taken; where sdpa is asked for, the error says what to ask for instead."""
    measured = measure(dict.fromkeys(FORMS, 0.1))
    load = Loader(checkpoint("deberta-v2"))
    data = examples(load(torch.float32, "eager"))
    choice = fastest(load, TASK, TrainingConfig(), data)
    assert measured == [("bfloat16", "eager"), ("float32", "eager")]
    assert choice.attention == "eager"
    for options in (TrainingConfig(attention="sdpa"), TrainingConfig(attention="sdpa", precision="float32")):
        with pytest.raises(ModelError, match="scaled_dot_product_attention"):
            fastest(load, TASK, options, data)


def test_measuring_leaves_no_trace(checkpoint: Checkpoints):
    """The adapter, the gradients, the mode and the global generator are as they were."""
    load = Loader(checkpoint("bert"))
    data = examples(load(torch.float32, "eager"), 40)
    before = torch.random.get_rng_state()
    choice = fastest(load, TASK, TrainingConfig(), data)
    assert choice.seconds is not None
    assert 0 < choice.seconds < 10
    model = choice.resident
    assert (choice.precision, choice.attention) == form(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.extract().identical(model.initial(2, 2.0, 0))
    assert all(parameter.grad is None for parameter in model.trainable())
    assert not model.model.training


def test_a_hopeless_candidate_is_given_up(checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    """On a clock that says a second for each step, four steps are taken, or one where the best step takes 0.4."""
    load = Loader(checkpoint("bert"))
    model = load(torch.float32, "sdpa")
    data = examples(model, 8)
    steps: list[int] = []
    model.model.register_forward_pre_hook(lambda *_: steps.append(1))
    ticks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert auto._step_seconds(model, TASK, TrainingConfig(), data, None) == 1.0
    assert len(steps) == 1 + auto.TIMED_STEPS
    steps.clear()
    auto._step_seconds(model, TASK, TrainingConfig(), data, 0.6)
    assert len(steps) == 1 + auto.TIMED_STEPS
    steps.clear()
    auto._step_seconds(model, TASK, TrainingConfig(), data, 0.4)
    assert len(steps) == 1
