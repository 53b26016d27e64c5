from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training.batched.engine import Batched
from polyrank.training.tuning import planner
from polyrank.training.tuning.planner import Plan, choose
from polyrank.training.work import Engine, Outcome, Work
from tests.models import TASK, Checkpoints, examples, resident

Kind = tuple[str, int, int]
"""Engine, clients in one pass, threads."""
Measure = Callable[[Mapping[Kind, float]], list[Kind]]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests set the number that stands for the cores, whatever this machine allows."""
    monkeypatch.setattr(planner, "allowed", torch.get_num_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    return resident(checkpoint("bert"), head="model")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Prescribe seconds per client and step, and get a list that tells what was measured."""

    def prescribe(seconds: Mapping[Kind, float]) -> list[Kind]:
        measured: list[Kind] = []

        def timed(engine: Engine, works: Sequence[Work]) -> float:
            width = engine.clients_per_pass if isinstance(engine, Batched) else 1
            assert len(works) == width
            measured.append((type(engine).__name__.lower(), width, torch.get_num_threads()))
            return seconds[measured[-1]]

        monkeypatch.setattr(planner, "_seconds", timed)
        return measured

    return prescribe


@dataclass(frozen=True)
class Memory:
    """What psutil says, as far as it is read."""

    available: float


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Prescribe the bytes that are free."""
    return lambda size: monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(size))


def asked(model: ResidentModel, count: int) -> list[Work]:
    adapter = model.initial(2, 2.0, 0)
    return [Work(f"c{i:02d}", 1, adapter, i) for i in range(count)]


def held(model: ResidentModel, count: int, size: int = 8) -> dict[str, Examples]:
    return {f"c{i:02d}": examples(model, size, seed=i) for i in range(count)}


def chosen(model: ResidentModel, options: TrainingConfig, count: int, rounds: int = 1) -> Plan:
    """For a cohort of so many clients; others, who take no part, are there too."""
    return choose(model, TASK, held(model, count + 2), options, asked(model, count), rounds=rounds)


def batched(seconds: Mapping[int, float], threads: int = 1) -> dict[Kind, float]:
    return {("batched", width, threads): value for width, value in seconds.items()}


@pytest.mark.parametrize(
    "case",
    [
        ({1: 1.0, 2: 0.9, 5: 0.8, 10: 0.7, 12: 0.6}, 12, [1, 2, 5, 10, 12]),
        ({1: 1.0, 2: 0.6, 5: 0.5, 10: 0.53}, 5, [1, 2, 5, 10]),
        ({1: 1.0, 2: 1.06}, 1, [1, 2]),
        ({1: 1.0, 2: 0.95}, 1, [1, 2]),
        ({1: 1.0, 2: 0.5, 5: 0.48}, 2, [1, 2, 5]),
    ],
    ids=["widest", "narrower", "one", "not worth it", "not worth more"],
)
@pytest.mark.parametrize("engine", ["auto", "batched"])
def test_the_fastest_width_is_taken(
    bert: ResidentModel, measure: Measure, engine: str, case: tuple[dict[int, float], int, list[int]]
):
    """12 clients; the search ends where a width is not 1.08 times as fast as the one before."""
    seconds, best, measured = case
    found = measure(batched(seconds))
    plan = chosen(bert, TrainingConfig(engine=engine, batch_size=4), 12)
    assert plan == Plan("batched", best, 1)
    assert [width for _, width, _ in found] == measured


def test_the_plan_in_words():
    assert str(Plan("sequential", 1, 1)) == str(Plan("batched", 1, 1)) == "one client after another"
    assert str(Plan("batched", 5, 2)) == "5 clients in one pass, 2 processes"
    assert str(Plan("sequential", 1, 1, "it couples them")) == "one client after another (not batched: it couples them)"


EVER_FASTER = {1: 1.0, 2: 0.9, 4: 0.8, 5: 0.75, 6: 0.7, 8: 0.6, 10: 0.5, 12: 0.4}


def bytes_of_one(model: ResidentModel, free: Callable[[float], None], own: Examples, options: TrainingConfig) -> float:
    """What the planner takes the saved activations of one client for, from how many fit into a lot."""
    free(1e15)
    (work,) = asked(model, 1)
    return planner.MEMORY_SHARE * 1e15 / planner._most_that_fit(Batched(model, TASK, {"c00": own}, options, 1), work)


def test_memory_limits_the_width(bert: ResidentModel, measure: Measure, free: Callable[[float], None]):
    """Into half of what is free go the activations of so many clients, those of all processes together."""
    options = TrainingConfig(batch_size=4)
    one = bytes_of_one(bert, free, held(bert, 1)["c00"], options)
    for clients, width in ((0, 1), (1.5, 1), (2.5, 2), (7, 5), (11, 10), (100, 12)):
        measure(batched(EVER_FASTER))
        free(clients * one / planner.MEMORY_SHARE)
        assert chosen(bert, options, 12).clients_per_pass == width
    for clients, width in ((5, 1), (7, 2)):
        measure(batched(EVER_FASTER))
        free(clients * one / planner.MEMORY_SHARE)
        assert chosen(bert, options.model_copy(update={"workers": 3}), 12).clients_per_pass == width
    torch.set_num_threads(2)
    measure(batched(EVER_FASTER, 2) | batched(EVER_FASTER, 1))
    assert chosen(bert, options, 12, rounds=10**6) == Plan("batched", 2, 2)  # 7 // 2 fit, so 2 of 1, 2, 5


def test_the_memory_of_a_client(bert: ResidentModel, free: Callable[[float], None]):
    """That of one pass, not of all: more steps need no more, longer texts do; at least the two layers' states."""
    options = TrainingConfig(batch_size=4)
    own = held(bert, 1, size=4)["c00"]

    def repeated(times: int, longer: int = 1) -> Examples:
        tokens = tuple(np.tile(text, longer) for text in own.tokens) * times
        return Examples(tokens, np.tile(own.targets, times), own.pad_id)

    one, many, long = (
        bytes_of_one(bert, free, other, options) for other in (repeated(1), repeated(5), repeated(1, longer=2))
    )
    assert many == pytest.approx(one, rel=0.01)
    assert 1.3 * one < long < 5 * one
    states = 4 * own.lengths.max() * 16 * 4
    assert 2 * states < one < 100 * states


def test_recomputed_layers_take_less(checkpoint: Checkpoints, free: Callable[[float], None]):
    """Of six layers: their inputs, and all that one of them keeps while it is computed once more."""
    deep, flat = (resident(checkpoint("llama", num_hidden_layers=n), targets="all-linear") for n in (6, 1))
    options = TrainingConfig(batch_size=4)
    again = options.model_copy(update={"gradient_checkpointing": True})
    own = held(deep, 1, size=4)["c00"]
    one = bytes_of_one(flat, free, own, options)
    assert one < bytes_of_one(deep, free, own, again) < bytes_of_one(deep, free, own, options) / 2


def test_weights_are_no_clients_memory(checkpoint: Checkpoints, free: Callable[[float], None]):
    """They are saved for the backward pass, but are there anyway."""
    wide = resident(checkpoint("bert", intermediate_size=4096))
    own = held(wide, 1, size=1)["c00"]
    assert bytes_of_one(wide, free, own, TrainingConfig()) < sum(p.nbytes for p in wide.model.parameters()) / 2


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({"engine": "batched", "clients_per_pass": 3, "workers": 2}, Plan("batched", 3, 2)),
        ({"engine": "batched", "clients_per_pass": 50, "workers": 1}, Plan("batched", 50, 1)),
        ({"engine": "sequential", "workers": 1}, Plan("sequential", 1, 1)),
        ({"engine": "sequential", "workers": 4, "clients_per_pass": 7}, Plan("sequential", 1, 4)),
    ],
)
def test_a_fixed_choice_is_not_measured(bert: ResidentModel, measure: Measure, options: dict, plan: Plan):
    measured = measure({})
    assert chosen(bert, TrainingConfig(**options), 4, rounds=100) == plan
    assert not measured


def test_only_what_is_open_is_measured(bert: ResidentModel, measure: Measure):
    """With two processes asked for, at the threads that each will have, and no wider than their share of clients."""
    torch.set_num_threads(4)
    measured = measure(batched({1: 1.0, 2: 0.9, 5: 0.1, 6: 0.1}, threads=2))
    assert chosen(bert, TrainingConfig(workers=2), 6, rounds=10**6) == Plan("batched", 2, 2)
    assert measured == [("batched", 1, 2), ("batched", 2, 2)]
    measured = measure(batched({3: 1.0}, threads=4) | batched({3: 1.0}, threads=1))
    assert chosen(bert, TrainingConfig(clients_per_pass=3), 6, rounds=10**6) == Plan("batched", 3, 4)
    assert measured == [("batched", 3, 4), ("batched", 3, 1)]
    measured = measure({("sequential", 1, 4): 1.0, ("sequential", 1, 1): 1.0})
    assert chosen(bert, TrainingConfig(engine="sequential"), 6, rounds=10**6) == Plan("sequential", 1, 4)
    assert measured == [("sequential", 1, 4), ("sequential", 1, 1)]


SLOW = {1: 1.0, 2: 0.5, 5: 0.4, 8: 0.6}
"""Of 8 clients 5 in one pass are fastest; on 4 cores 2 are left for each process."""


def alone(gain: float) -> dict[Kind, float]:
    """Seconds on one thread at which 4 processes together are so many times as fast as one of 4 threads."""
    return batched({1: 9.0, 2: 4 * SLOW[5] / gain}, threads=1)


@pytest.mark.parametrize(("gain", "workers"), [(1.3, 4), (1.16, 4), (1.14, 1), (0.5, 1)])
def test_processes_where_they_are_measured_to_pay(bert: ResidentModel, measure: Measure, gain: float, workers: int):
    torch.set_num_threads(4)
    measured = measure(batched(SLOW, threads=4) | alone(gain))
    plan = chosen(bert, TrainingConfig(batch_size=4), 8, rounds=1000)
    assert plan == (Plan("batched", 2, 4) if workers == 4 else Plan("batched", 5, 1))
    assert measured[-2:] == [("batched", 1, 1), ("batched", 2, 1)]


@pytest.mark.parametrize(
    "case",
    [(4, 8, 5, 4), (4, 8, 4, 1), (4, 3, 1000, 1), (1, 8, 1000, 1)],
    ids=["long enough", "too short", "fewer clients than cores", "one core"],
)
def test_processes_only_for_long_runs_on_several_cores(
    bert: ResidentModel, measure: Measure, case: tuple[int, int, int, int]
):
    """8 clients of 2 steps at 0.4 s are 6.4 s a round: five rounds take more than 3 * 10 s, four do not."""
    cores, clients, rounds, workers = case
    torch.set_num_threads(cores)
    measured = measure(batched(SLOW | {3: 0.4}, cores) | (alone(2.0) if cores > 1 else {}))
    plan = chosen(bert, TrainingConfig(batch_size=4), clients, rounds)
    assert plan.workers == workers
    assert any(threads != cores for *_, threads in measured) == (workers > 1)


@pytest.mark.parametrize("options", [{}, {"engine": "batched", "clients_per_pass": 2, "workers": 1}])
def test_a_model_that_couples_examples_is_trained_sequentially(
    bert: ResidentModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, options: dict
):
    """Also where batching was asked for; the reason is in the plan and in the log."""
    bert.model.add_module("odd", nn.BatchNorm1d(4))
    caplog.clear()
    monkeypatch.setattr(logging.getLogger("polyrank"), "propagate", True)  # the command line's tests switch it off
    monkeypatch.setattr(logging.getLogger("polyrank.training.tuning.planner"), "disabled", False)
    with caplog.at_level(logging.WARNING, "polyrank.training.tuning.planner"):
        plan = chosen(bert, TrainingConfig(batch_size=4, **options), 3)
    reason = "odd is a BatchNorm1d, which normalises over the examples of a batch"
    assert plan == Plan("sequential", 1, 1, reason)
    assert f"not batched: {reason}" in str(plan)
    assert [record.getMessage() for record in caplog.records] == [f"clients are trained one after another: {reason}"]


@pytest.mark.parametrize("workers", ["auto", 1])
def test_a_reason_that_shows_in_a_step_only(
    checkpoint: Checkpoints, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, workers: int | str
):
    """DeBERTa drops values of its table of positions, which has no clients; found while two are measured."""
    model = resident(checkpoint("deberta-v2"))
    caplog.clear()
    monkeypatch.setattr(logging.getLogger("polyrank"), "propagate", True)  # the command line's tests switch it off
    monkeypatch.setattr(logging.getLogger("polyrank.training.tuning.planner"), "disabled", False)
    with caplog.at_level(logging.WARNING, "polyrank.training.tuning.planner"):
        plan = chosen(model, TrainingConfig(batch_size=4, workers=workers), 3)
    assert (plan.engine, plan.clients_per_pass, plan.workers) == ("sequential", 1, 1)
    assert "whose rows are not examples" in str(plan)
    assert plan.reason in caplog.text
    assert not model.model.training


def test_a_real_measurement_gives_a_valid_plan_and_leaves_no_trace(bert: ResidentModel):
    """Threads, mode and the global generators are as they were, and the works too."""
    torch.set_num_threads(2)
    works = asked(bert, 3)
    sent = works[0].adapter.map(torch.clone)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    plan = choose(bert, TASK, held(bert, 3), TrainingConfig(batch_size=4), works, rounds=1)
    assert plan.engine == "batched"
    assert plan.clients_per_pass in (1, 2, 3)
    assert (plan.workers, plan.reason) == (1, "")
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert not bert.model.training
    assert works[0].adapter.identical(sent)


@dataclass
class Counted(Engine):
    """Takes no time and counts how often it trains; each work is of two steps."""

    calls: int = 0

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        self.calls += 1
        return (Outcome(work.client, work.adapter.parts(work.trains), 1.0, {"steps": 2}) for work in works)


@pytest.mark.parametrize(
    ("took", "calls", "seconds"), [([0.9, 0.3, 0.6], 3, 0.05), ([1.2], 1, 0.2), ([0.6, 1.8], 2, 0.1)]
)
def test_the_shortest_timing_counts(
    bert: ResidentModel, monkeypatch: pytest.MonkeyPatch, took: list[float], calls: int, seconds: float
):
    """By a clock on which three clients of two steps take so long; after more than a second there is no repetition."""
    starts = [0.0, *accumulate(took)]
    ticks = chain.from_iterable(pairwise(starts))
    engine, works = Counted(), asked(bert, 3)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert planner._seconds(engine, works) == pytest.approx(seconds)
    assert engine.calls == calls


def test_what_is_timed_is_as_long_as_the_clients_texts():
    """Of 200 lengths two batches of 8 from the shortest to the longest; a small client is timed as a whole."""
    options = TrainingConfig(batch_size=8)
    lengths = np.random.default_rng(0).permutation(np.arange(1, 201))
    timed = lengths[planner._typical(lengths, options)]
    assert len(set(timed.tolist())) == planner.STEPS * 8
    assert (timed.min(), timed.max()) == (1, 200)
    assert timed.mean() == pytest.approx(lengths.mean(), rel=0.02)
    assert sorted(planner._typical(lengths[:5], options)) == [0, 1, 2, 3, 4]
    assert planner._typical(lengths[:1], options).tolist() == [0]
