from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.training import lanes
from polyrank.training.dropout import UnbatchableError
from polyrank.training.engines import engine_in_lanes, local_engine
from polyrank.training.evaluate import evaluate, tallies
from polyrank.training.lanes import Lanes, SideBySide
from polyrank.training.local import HaltedError, Local
from polyrank.training.profile import Clock
from tests.models import TASK, Checkpoints, examples, random_adapter, resident
from tests.training.uneven import held, same, works

BATCHED = TrainingConfig(engine="batched", clients_per_pass=2, batch_size=4)


@pytest.fixture(autouse=True)
def one_thread_each() -> Iterator[None]:
    """As a lane has: more than one would add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (BATCHED, torch.float32),
        (BATCHED, torch.bfloat16),
        (TrainingConfig(engine="sequential", batch_size=4), torch.float32),
        (
            TrainingConfig(engine="batched", clients_per_pass=3, batch_size=4, gradient_checkpointing=True),
            torch.float32,
        ),
    ],
    ids=["batched", "bfloat16", "sequential", "recomputed"],
)
def test_results_do_not_depend_on_the_number_of_lanes(
    checkpoint: Checkpoints, architecture: str, count: int, options: TrainingConfig, dtype: torch.dtype
):
    """Bit for bit those of one, dropout included, in the order of the works, whatever that is."""
    model = resident(checkpoint(architecture), head="model", dropout=0.1, dtype=dtype)
    asked, data = works(model), held(model)
    alone = local_engine(model, TASK, data, options, Clock())
    expected, backwards = list(alone.run(asked)), list(alone.run(asked[::-1]))
    engine = engine_in_lanes(Lanes(model, count), TASK, data, options, Clock())
    before = torch.random.get_rng_state()
    assert same(list(engine.run(asked)), expected)
    assert same(list(engine.run(asked[::-1])), backwards)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 1
    engine.close()


def test_one_lane_is_the_engine_itself(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"))
    single = Lanes(model)
    assert single.residents == [model]
    assert isinstance(engine_in_lanes(single, TASK, held(model), BATCHED, Clock()), Local)
    here = list(single.map(lambda _, item: (item, threading.get_ident()), "ab"))
    assert here == [("a", threading.get_ident()), ("b", threading.get_ident())]


@pytest.fixture
def three(checkpoint: Checkpoints) -> Iterator[Lanes]:
    found = Lanes(resident(checkpoint("bert")), 3)
    yield found
    found.close()


def test_results_come_in_the_order_of_the_items(three: Lanes):
    """Whichever is done first; three at a time, each in a lane that nobody else has meanwhile."""
    inside: set[int] = set()
    most: list[int] = []

    def wait(lane: int, item: int) -> int:
        assert lane not in inside
        inside.add(lane)
        most.append(len(inside))
        time.sleep(0.01 * (3 - item % 3))
        inside.remove(lane)
        return item

    assert list(three.map(wait, range(20))) == list(range(20))
    assert max(most) == 3
    assert list(three.map(wait, [])) == []


def test_what_reads_results_may_ask_for_more_meanwhile(three: Lanes):
    """As the scoring round does: it measures what is trained while others train."""
    outer = three.map(lambda _, item: item, range(9))
    assert list(three.map(lambda _, item: 10 * item, outer)) == [10 * i for i in range(9)]


@pytest.mark.parametrize(("threads", "each"), [(1, 1), (3, 1), (4, 1), (6, 2)])
def test_lanes_share_out_the_threads(checkpoint: Checkpoints, threads: int, each: int):
    """Also after the caller's own number is as it was: more threads than cores would slow all lanes down."""
    torch.set_num_threads(threads)
    several = Lanes(resident(checkpoint("bert")), 3)
    for _ in range(2):
        assert list(several.map(lambda *_: torch.get_num_threads(), range(6))) == [each] * 6
        assert torch.get_num_threads() == threads
    several.close()


def test_an_error_comes_out_and_nothing_goes_on(three: Lanes):
    done: list[int] = []

    def fail(_: int, item: int) -> int:
        if item == 1:
            raise ValueError("one")
        time.sleep(0.02)
        done.append(item)
        return item

    with pytest.raises(ValueError, match="one"):
        list(three.map(fail, range(1000)))
    after = len(done)
    time.sleep(0.1)
    assert len(done) == after < 10
    assert list(three.map(lambda _, item: item, range(4))) == [0, 1, 2, 3]


def test_a_reader_that_stops_ends_the_passes_at_their_next_step(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    """As on Ctrl-C: nobody waits for a pass of a thousand steps."""
    model = resident(checkpoint("bert"), head="model")
    data = {f"c{i}": examples(model, 4, seed=i) for i in range(4)}
    options = TrainingConfig(engine="sequential", batch_size=4, epochs=10**6)
    engine = engine_in_lanes(Lanes(model, 2), TASK, data, options, Clock())
    assert isinstance(engine, SideBySide)
    ended: list[str] = []
    begun: list[ResidentModel] = []
    real, both_and_here = Local.go_on, threading.Barrier(3)

    def go_on(self: Local) -> None:
        if self.resident not in begun:
            begun.append(self.resident)
            both_and_here.wait(60)
        try:
            real(self)
        except HaltedError:
            ended.append(threading.current_thread().name)
            raise

    monkeypatch.setattr(Local, "go_on", go_on)
    first = replace(works(model)[0], base_change=None, penalty=None)
    outcomes = engine.run([replace(first, client=f"c{i}") for i in range(4)])
    real_wait = lanes.wait

    def interrupted(*_: object, **__: object) -> None:
        both_and_here.wait(60)
        monkeypatch.setattr(lanes, "wait", real_wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert len(ended) == 2
    for one in engine.engines:
        one.options = options.model_copy(update={"epochs": 1})
    assert len(list(engine.run([first]))) == 1


class Noisy(nn.Module):
    """Adds numbers of torch's own generator, which all threads share."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y + torch.rand(y.shape) if self.training else y


def test_a_model_with_random_numbers_of_its_own_is_refused(checkpoint: Checkpoints):
    """Alone its generator is seeded; beside another pass it would give each of them some of the other's numbers."""
    model = resident(checkpoint("bert"), head="mean-pool")
    layer: Any = model.model.encoder.encoder.layer[0]
    layer.output.dense = Noisy(layer.output.dense)
    asked, data = [replace(work, base_change=None) for work in works(model)], held(model)
    options = TrainingConfig(engine="sequential", batch_size=4)
    alone = engine_in_lanes(Lanes(model), TASK, data, options, Clock())
    assert same(list(alone.run(asked)), list(alone.run(asked)))
    beside = engine_in_lanes(Lanes(model, 2), TASK, data, options, Clock())
    with pytest.raises(UnbatchableError, match="the model draws random numbers by rand"):
        list(beside.run(asked))


def test_layers_that_are_left_out_at_random_are_refused(checkpoint: Checkpoints):
    """One decision for all clients of a pass, drawn from a generator that all lanes share."""
    model = resident(checkpoint("bert"), head="model")
    encoder: Any = model.model.get_submodule("bert.encoder")
    encoder.layerdrop = 0.0
    engine_in_lanes(Lanes(model, 2), TASK, held(model), BATCHED, Clock())
    encoder.layerdrop = 0.1
    message = r"bert.encoder leaves out layers at random \(its layerdrop is 0.1\)"
    with pytest.raises(UnbatchableError, match=message):
        local_engine(model, TASK, held(model), BATCHED, Clock())
    alone = BATCHED.model_copy(update={"engine": "sequential"})
    local_engine(model, TASK, held(model), alone, Clock())
    with pytest.raises(UnbatchableError, match=message):
        engine_in_lanes(Lanes(model, 2), TASK, held(model), alone, Clock())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_measuring_does_not_depend_on_the_number_of_lanes(checkpoint: Checkpoints, count: int):
    """What a caller installs in the base stays there where lanes have twins."""
    model = resident(checkpoint("bert"))
    sets = [examples(model, size, seed=size) for size in (13, 4, 1)]
    one, other = random_adapter(model, 1), random_adapter(model, 2)
    model.install(one)
    expected = [str(evaluate(model, TASK, own, 4)) for own in sets]
    model.install(other)
    several = Lanes(model, count)
    found = tallies(several, TASK, sets, 4, lambda base: base.install(one))
    assert list(map(str, found)) == expected
    assert model.extract().identical(one if count == 1 else other)
    several.close()


def test_the_time_of_lanes_is_booked_once(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), head="model")
    clock = Clock(running=True)
    engine = engine_in_lanes(Lanes(model, 2), TASK, held(model), BATCHED, clock)
    start = time.perf_counter()
    list(engine.run(works(model)))
    assert 0 < sum(clock.take().values()) <= time.perf_counter() - start
