from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from polyrank.config import TrainingConfig
from polyrank.core import limits
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training.batched.engine import Batched
from polyrank.training.dropout import UnbatchableError
from polyrank.training.local import Local
from polyrank.training.tuning import forms, planner, search
from polyrank.training.tuning.forms import DTYPES
from polyrank.training.tuning.planner import Plan, choose
from polyrank.training.tuning.trials import Trials, Way
from polyrank.training.work import Work
from tests.models import TASK, Checkpoints, examples, resident

Seconds = Mapping[tuple[int, ...], float]
"""Clients to a pass, threads, and lanes where there are several -> per client and step."""
Measure = Callable[[Mapping[str, Seconds] | Seconds], list[tuple[int, ...]]]
SETTLED = {"precision": "float32", "attention": "sdpa"}
"""Where engines are what is looked at."""


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests set the number that stands for the cores, whatever this machine allows; they begin with one to a pass."""
    monkeypatch.setattr(limits, "cores", torch.get_num_threads)
    monkeypatch.setattr(search, "FIRST_SECONDS", 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    return resident(checkpoint("bert"), head="model")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Prescribe seconds, by form where they differ, and get a list that tells what was measured, each once."""

    def prescribe(seconds: Mapping[str, Seconds] | Seconds) -> list[tuple[int, ...]]:
        measured: list[tuple[int, ...]] = []

        def timed(trials: Trials, way: Way) -> float:
            own = seconds.get(str(way.form), seconds)
            key = (way.width, way.threads, *([way.lanes] if way.lanes > 1 else []))
            trials.best[way] = own[key]
            if key not in measured:
                measured.append(key)
            return trials.best[way]

        monkeypatch.setattr(Trials, "_time", timed)
        return measured

    return prescribe


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Prescribe the bytes that are free."""
    return lambda size: monkeypatch.setattr(limits, "free_memory", lambda: size)


def asked(model: ResidentModel, count: int) -> list[Work]:
    adapter = model.initial(2, 2.0, 0)
    return [Work(f"c{i:02d}", 1, adapter, i) for i in range(count)]


def held(model: ResidentModel, count: int, size: int = 8) -> dict[str, Examples]:
    return {f"c{i:02d}": examples(model, size, seed=i) for i in range(count)}


def chosen(model: ResidentModel, options: TrainingConfig, count: int, rounds: int = 1) -> Plan:
    """For a cohort of so many clients; others, who take no part, are there too."""
    options = options.model_copy(update=SETTLED)
    everybody = held(model, count + 2)
    return choose(lambda *_: model, TASK, everybody, options, lambda base: asked(base, count), rounds=rounds).plan


def batched(seconds: Mapping[int, float], threads: int = 1) -> Seconds:
    return {(width, threads): value for width, value in seconds.items()}


@pytest.mark.parametrize(
    "case",
    [
        ({1: 1.0, 2: 0.9, 5: 0.8, 10: 0.7, 12: 0.6}, 12, [1, 2, 5, 10, 12]),
        ({1: 1.0, 2: 0.6, 5: 0.5, 10: 0.53}, 5, [1, 2, 5, 10]),
        ({1: 1.0, 2: 1.06}, 1, [1, 2]),
        ({1: 1.0, 2: 0.97}, 1, [1, 2]),
        ({1: 1.0, 2: 0.5, 5: 0.49}, 2, [1, 2, 5]),
    ],
    ids=["widest", "narrower", "one", "not worth it", "not worth more"],
)
@pytest.mark.parametrize("engine", ["auto", "batched"])
def test_the_fastest_width_is_taken(
    bert: ResidentModel, measure: Measure, engine: str, case: tuple[dict[int, float], int, list[int]]
):
    """12 clients; the search ends where a width is not 1.04 times as fast as the one before."""
    seconds, best, measured = case
    found = measure(batched(seconds))
    plan = chosen(bert, TrainingConfig(engine=engine, batch_size=4), 12)
    assert plan == Plan("batched", best, 1)
    assert [width for width, _ in found] == measured


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({12: 0.7, 10: 0.51, 5: 0.5, 2: 0.6}, 5),
        ({12: 0.5, 10: 0.53}, 12),
        (dict.fromkeys((1, 2, 5, 10, 12), 0.5), 1),
    ],
    ids=["between", "widest", "all alike"],
)
def test_short_steps_begin_wide(
    bert: ResidentModel, measure: Measure, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], best: int
):
    """And become narrower as long as nothing is lost by it."""
    monkeypatch.setattr(search, "FIRST_SECONDS", 1e9)
    found = measure(batched(seconds))
    assert chosen(bert, TrainingConfig(batch_size=4), 12) == Plan("batched", best, 1)
    assert found[0] == (12, 1)


F32, BF16 = "float32 with sdpa attention", "bfloat16 with sdpa attention"


@pytest.mark.parametrize(
    "case",
    [
        ({1: 1.0, 2: 0.9, 5: 0.9}, {1: 1.2, 2: 0.7, 5: 0.4}, ("bfloat16", 5)),
        ({1: 1.0, 2: 0.5, 5: 0.5}, {1: 0.9, 2: 0.8, 5: 0.8}, ("float32", 2)),
        ({1: 1.0, 2: 1.0}, {1: 1.02, 2: 1.02}, ("bfloat16", 1)),
        ({1: 1.0, 2: 1.0}, {1: 1.4}, ("float32", 1)),
        ({1: 1.4}, {1: 1.0, 2: 1.0}, ("bfloat16", 1)),
        ({1: 1.0, 2: 0.5, 5: 0.25}, {1: 1.2, 2: 0.8}, ("float32", 5)),
    ],
    ids=["wide passes decide", "for either", "the likelier stays", "hopeless", "likely", "far behind as wide"],
)
def test_form_and_width_are_chosen_together(
    checkpoint: Checkpoints,
    measure: Measure,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[dict[int, float], dict[int, float], tuple[str, int]],
):
    """Here bfloat16 is the likelier, and not clearly faster; each form is tried as wide as is best for it."""
    monkeypatch.setattr(forms, "gflops", lambda dtype: 2.0 if dtype == torch.bfloat16 else 1.0)
    float32, bfloat16, (precision, width) = case
    measure({F32: batched(float32), BF16: batched(bfloat16)})
    path = checkpoint("bert")

    def load(dtype: torch.dtype, attention: str) -> ResidentModel:
        return resident(path, head="model", dtype=dtype, attention=attention)

    data = held(load(torch.float32, "sdpa"), 5)
    options = TrainingConfig(batch_size=4, attention="sdpa")
    choice = choose(load, TASK, data, options, lambda base: asked(base, 5), rounds=1)
    assert (choice.form.precision, choice.plan.clients_per_pass) == (precision, width)
    assert choice.resident.dtype == DTYPES[precision]


def test_the_plan_in_words():
    assert str(Plan("sequential", 1, 1)) == str(Plan("batched", 1, 1)) == "one client after another"
    assert str(Plan("batched", 5, 2)) == "5 clients in one pass, 2 processes"
    assert str(Plan("batched", 5, 1, 2)) == "5 clients in one pass, 2 passes at a time"
    assert (
        str(Plan("sequential", 1, 1, reason="it couples them"))
        == "one client after another (not batched: it couples them)"
    )


EVER_FASTER = {1: 1.0, 2: 0.9, 4: 0.8, 5: 0.75, 6: 0.7, 8: 0.6, 10: 0.5, 12: 0.4}


def bytes_of_one(model: ResidentModel, free: Callable[[float], None], own: Examples, options: TrainingConfig) -> float:
    """What the planner takes the saved activations of one client for, from how many fit into a lot."""
    free(1e15)
    (work,) = asked(model, 1)
    return search.MEMORY_SHARE * 1e15 / search.most_that_fit(Batched(model, TASK, {"c00": own}, options, 1), work)


def test_memory_limits_the_width(bert: ResidentModel, measure: Measure, free: Callable[[float], None]):
    """Into half of what is free go the activations of so many clients, those of all processes together."""
    options = TrainingConfig(batch_size=4)
    one = bytes_of_one(bert, free, held(bert, 1)["c00"], options)
    for clients, width in ((0, 1), (1.5, 1), (2.5, 2), (7, 5), (11, 10), (100, 12)):
        measure(batched(EVER_FASTER))
        free(clients * one / search.MEMORY_SHARE)
        assert chosen(bert, options, 12).clients_per_pass == width
    for clients, width in ((5, 1), (7, 2)):
        measure(batched(EVER_FASTER))
        free(clients * one / search.MEMORY_SHARE)
        assert chosen(bert, options.model_copy(update={"workers": 3}), 12).clients_per_pass == width
    torch.set_num_threads(2)
    measure(batched(EVER_FASTER, 2) | batched(EVER_FASTER, 1))
    alone = options.model_copy(update={"lanes": 1})
    assert chosen(bert, alone, 12, rounds=10**6) == Plan("batched", 2, 2)  # 7 // 2 fit, so 2 of 1, 2, 5
    measure(batched(EVER_FASTER, 2) | {(width, 1, 2): seconds / 2 for width, seconds in EVER_FASTER.items()})
    assert chosen(bert, options, 12) == Plan("batched", 2, 1, 2)


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
        ({"engine": "batched", "clients_per_pass": 3, "lanes": 1, "workers": 2}, Plan("batched", 3, 2)),
        ({"engine": "batched", "clients_per_pass": 50, "lanes": 3, "workers": 1}, Plan("batched", 50, 1, 3)),
        ({"engine": "sequential", "lanes": 1, "workers": 1}, Plan("sequential", 1, 1)),
        ({"engine": "sequential", "lanes": 2, "workers": 4, "clients_per_pass": 7}, Plan("sequential", 1, 4, 2)),
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
    assert chosen(bert, TrainingConfig(workers=2, lanes=1), 6, rounds=10**6) == Plan("batched", 2, 2)
    assert measured == [(1, 2), (2, 2)]
    measured = measure(batched({3: 1.0}, threads=4) | batched({3: 1.0}, threads=1))
    assert chosen(bert, TrainingConfig(clients_per_pass=3, lanes=1), 6, rounds=10**6) == Plan("batched", 3, 4)
    assert measured == [(3, 4), (3, 1)]
    measured = measure(batched({1: 1.0}, threads=4) | batched({1: 1.0}, threads=1))
    assert chosen(bert, TrainingConfig(engine="sequential", lanes=1), 6, rounds=10**6) == Plan("sequential", 1, 4)
    assert measured == [(1, 4), (1, 1)]
    measured = measure(batched({3: 1.0}, threads=4) | {(3, 2, 2): 0.9})
    assert chosen(bert, TrainingConfig(clients_per_pass=3, workers=1), 6) == Plan("batched", 3, 1, 2)
    assert measured == [(3, 4), (3, 2, 2)]
    measured = measure({(1, 1, 3): 1.0, (2, 1, 3): 0.7})
    assert chosen(bert, TrainingConfig(lanes=3), 6, rounds=10**6) == Plan("batched", 2, 1, 3)
    assert measured == [(1, 1, 3), (2, 1, 3)]


SLOW = {1: 1.0, 2: 0.5, 5: 0.4, 8: 0.6}
"""Of 8 clients 5 in one pass are fastest; on 4 cores 2 are left for each process."""


def alone(gain: float) -> Seconds:
    """Seconds on one thread at which 4 processes together are so many times as fast as one of 4 threads."""
    return batched({1: 9.0, 2: 4 * SLOW[5] / gain}, threads=1)


@pytest.mark.parametrize(("gain", "workers"), [(1.3, 4), (1.11, 4), (1.09, 1), (0.5, 1)])
def test_processes_where_they_are_measured_to_pay(bert: ResidentModel, measure: Measure, gain: float, workers: int):
    torch.set_num_threads(4)
    measured = measure(batched(SLOW, threads=4) | alone(gain))
    plan = chosen(bert, TrainingConfig(batch_size=4, lanes=1), 8, rounds=1000)
    assert plan == (Plan("batched", 2, 4) if workers == 4 else Plan("batched", 5, 1))
    assert measured[-2:] == [(2, 1), (1, 1)]


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
    plan = chosen(bert, TrainingConfig(batch_size=4, lanes=1), clients, rounds)
    assert plan.workers == workers
    assert any(threads != cores for _, threads in measured) == (workers > 1)


@pytest.mark.parametrize(
    "case",
    [
        ({1: 0.6, 2: 0.35, 4: 0.36}, {1: 0.4, 2: 0.3}, (2, 4)),
        ({1: 0.6, 2: 0.35, 4: 0.34}, {1: 0.4, 2: 0.34}, (2, 2)),
        ({1: 0.6, 2: 0.39, 4: 0.4}, {}, (5, 1)),
        ({1: 0.6, 2: 0.36, 4: 0.3}, {1: 0.29, 2: 0.2875}, (4, 2)),
    ],
    ids=["four", "two", "one", "not worth more"],
)
def test_lanes_where_they_are_measured_to_pay(
    bert: ResidentModel, measure: Measure, case: tuple[dict[int, float], dict[int, float], tuple[int, int]]
):
    """Twice as many as long as that is 1.04 times as fast, with the width that is best for so many."""
    torch.set_num_threads(4)
    two, four, (width, lanes) = case
    ways = {(w, 2, 2): seconds for w, seconds in two.items()} | {(w, 1, 4): seconds for w, seconds in four.items()}
    processes = batched({1: 4.0, 2: 4.0, 5: 4.0, 8: 4.0})  # which are slow here
    measured = measure(batched(SLOW, threads=4) | ways | processes)
    options = TrainingConfig(batch_size=4)
    assert chosen(bert, options, 8) == Plan("batched", width, 1, lanes)
    assert chosen(bert, options, 8, rounds=1000) == Plan("batched", width, 1, lanes)
    assert any(way[1] == 1 and len(way) == 2 for way in measured) == (lanes == 1)  # else they have the cores


def test_no_lane_stays_without_clients(bert: ResidentModel, measure: Measure):
    """Three clients keep two lanes busy, not four."""
    torch.set_num_threads(4)
    measured = measure({(1, 4): 1.0, (2, 4): 1.0, (1, 2, 2): 0.1, (2, 2, 2): 0.2})
    assert chosen(bert, TrainingConfig(batch_size=4, workers=1), 3) == Plan("batched", 1, 1, 2)
    assert measured == [(1, 4), (2, 4), (1, 2, 2), (2, 2, 2)]


def test_a_model_that_cannot_be_trained_in_lanes_is_trained_in_one(
    bert: ResidentModel, measure: Measure, monkeypatch: pytest.MonkeyPatch
):
    torch.set_num_threads(4)
    measure({(1, 4): 1.0, (2, 4): 1.0})
    timed = Trials._time

    def refuse(trials: Trials, way: Way) -> float:
        if way.lanes > 1:
            raise UnbatchableError("it draws numbers")
        return timed(trials, way)

    monkeypatch.setattr(Trials, "_time", refuse)
    assert chosen(bert, TrainingConfig(batch_size=4, workers=1), 3) == Plan("batched", 1, 1, 1)


@pytest.mark.parametrize("options", [{}, {"engine": "batched", "clients_per_pass": 2, "lanes": 1, "workers": 1}])
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
    assert plan == Plan("sequential", 1, 1, reason=reason)
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
    options = TrainingConfig(batch_size=4, **SETTLED)
    plan = choose(lambda *_: bert, TASK, held(bert, 3), options, lambda _: works, rounds=1).plan
    assert plan.engine == "batched"
    assert plan.clients_per_pass in (1, 2, 3)
    assert (plan.workers, plan.reason) == (1, "")
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert not bert.model.training
    assert works[0].adapter.identical(sent)


def test_a_table_of_as_many_rows_as_a_batch_is_not_taken_for_examples(checkpoint: Checkpoints):
    """DeBERTa's table of positions has 16 rows, which two clients of 8 examples have too."""
    model = resident(checkpoint("deberta-v2"))
    options = TrainingConfig(batch_size=8, clients_per_pass=2, **SETTLED | {"attention": "eager"})
    plan = choose(lambda *_: model, TASK, held(model, 2, size=24), options, lambda base: asked(base, 2), rounds=1).plan
    assert plan.engine == "sequential"


def test_epochs_make_no_trial_longer(bert: ResidentModel, monkeypatch: pytest.MonkeyPatch):
    """Two steps are two steps."""
    steps: list[int] = []

    def trained(engine: Local, works: list[Work]) -> int:
        (outcome,) = list(engine.run(works[:1]))
        steps.append(int(outcome.metrics["steps"]))
        return steps[-1]

    monkeypatch.setattr(search, "trained", trained)
    chosen(bert, TrainingConfig(batch_size=4, epochs=30, clients_per_pass=1), 1)
    assert set(steps) == {2}


def test_what_is_timed_is_as_long_as_the_clients_texts():
    """Of 200 lengths two batches of 8 from the shortest to the longest; a small client is timed as a whole."""
    options = TrainingConfig(batch_size=8)
    lengths = np.random.default_rng(0).permutation(np.arange(1, 201))
    timed = lengths[planner.typical(lengths, options)]
    assert len(set(timed.tolist())) == planner.STEPS * 8 - 1  # no two batches of one size
    assert (timed.min(), timed.max()) == (1, 200)
    assert timed.mean() == pytest.approx(lengths.mean(), rel=0.02)
    assert sorted(planner.typical(lengths[:5], options)) == [0, 1, 2, 3, 4]
    assert planner.typical(lengths[:1], options).tolist() == [0]


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 1), (1e9, 2)], ids=["long", "short"])
def test_fewer_long_steps_are_timed(bert: ResidentModel, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int):
    timed: list[int] = []
    original = search.trained

    def trained(engine: Local, works: list[Work]) -> int:
        timed.append(original(engine, works) // len(works))
        return timed[-1] * len(works)

    monkeypatch.setattr(search, "trained", trained)
    monkeypatch.setattr(search, "LONG", seconds)
    options = TrainingConfig(batch_size=4, clients_per_pass=1, lanes=1, workers="auto", **SETTLED)
    choose(lambda *_: bert, TASK, held(bert, 2), options, lambda base: asked(base, 2), rounds=1)
    assert set(timed[1:]) == {steps}


def test_when_much_time_has_gone_nothing_new_is_tried(
    bert: ResidentModel, measure: Measure, monkeypatch: pytest.MonkeyPatch
):
    """But two lanes, which are worth the most."""
    torch.set_num_threads(2)
    monkeypatch.setattr(Trials, "over", property(lambda _: True))
    found = measure(batched({1: 1.0}, 2) | {(1, 1, 2): 0.5})
    assert chosen(bert, TrainingConfig(batch_size=4), 12) == Plan("batched", 1, 1, 2)
    assert found == [(1, 2), (1, 1, 2)]


def test_lanes_that_wait_at_the_end_are_counted(bert: ResidentModel, monkeypatch: pytest.MonkeyPatch):
    """Five clients in passes of two are three passes: in two lanes one of four places stays empty."""
    monkeypatch.setattr(search, "trained", lambda *_: 12)
    torch.set_num_threads(2)
    works, model = asked(bert, 5), bert
    bases = forms.Bases(lambda *_: model, TrainingConfig(**SETTLED))

    def make(base: ResidentModel, _: int) -> Batched:
        return Batched(base, TASK, held(bert, 5), TrainingConfig(batch_size=4), 1)

    found = search.Search(bases, make, works, 1, search.Settled(None, None, None))
    (form,) = bases.forms
    assert found._run(Way(form, 2, 2)) == 12
    assert found._run(Way(form, 2, 1, lanes=2)) == 12 * 3 / 4
    assert found._run(Way(form, 3, 1, lanes=2)) == 12
