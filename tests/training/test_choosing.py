"""Clients that choose their rank indices: what is scored, what is trained then, and what is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.core.adapter import Adapter, Factors, Part
from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.engine import Batched
from polyrank.training.choosing import Choosing, best, moved, narrowed
from polyrank.training.sequential import Sequential
from polyrank.training.work import Engine, Outcome, Work
from tests.models import TASK, Checkpoints, examples, random_adapter, resident

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ONE_STEP = {"optimizer": "sgd", "lr": 0.5, "batch_size": 8, "clip": 0.0}
ODD: frozenset[Part] = frozenset({"b", "head"})
EVEN: frozenset[Part] = frozenset({"a", "head"})


def two(b: Sequence[float], c: Sequence[float], scale: float = 1.0) -> Adapter:
    """Layers of one input and one output, A all 2; B as given, in q and in v."""
    return Adapter(
        {name: Factors(torch.full((len(x), 1), 2.0), torch.tensor([x]), scale) for name, x in (("q", b), ("v", c))}
    )


def test_a_score_is_how_far_the_product_moved():
    """At scale 3 and A = 2: B moved by 1 and 4 makes 3 * 1 * 2 and 3 * 4 * 2. A moved by 1/2 counts beside B = 1."""
    before = two([1.0, 1.0], [0.0], 3.0).modules["q"]
    assert moved(before, two([2.0, -3.0], [0.0], 3.0).modules["q"]).tolist() == [6.0, 24.0]
    assert moved(before, replace(before, a=before.a + torch.tensor([[0.0], [0.5]]))).tolist() == [0.0, 1.5]
    assert moved(replace(before, scale=-3.0), replace(before, b=before.b + 1, scale=-3.0)).tolist() == [6.0, 6.0]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (0, {"q": (), "v": ()}),
        (1, {"q": (1,), "v": ()}),
        (2, {"q": (1, 2), "v": ()}),
        (3, {"q": (1, 2), "v": (1,)}),
        (5, {"q": (0, 1, 2), "v": (0, 1)}),
    ],
)
def test_the_best_are_chosen_over_all_modules(count: int, chosen: dict[str, tuple[int, ...]]):
    """Moves of 1, 5, 3 in q and 1, 2 in v: 5, 3, 2, then the two of 1 in the modules' order."""
    start, probed = two([0.0, 0.0, 0.0], [0.0, 0.0]), two([1.0, 5.0, -3.0], [1.0, 2.0])
    assert best(start, probed, count) == chosen


def test_what_was_not_chosen_is_frozen_beside_the_base_change():
    """The client's model is the same: base change, rest and chosen rank indices add up to what it was sent."""
    draw = torch.Generator().manual_seed(0)

    def drawn(rank: int, scale: float) -> Factors:
        return Factors(torch.randn(rank, 5, generator=draw), torch.randn(4, rank, generator=draw), scale)

    adapter = Adapter({"q": drawn(3, 2.0), "v": drawn(3, 0.5)}, {"head": torch.ones(2)})
    change = Adapter({"q": drawn(2, 3.0)})
    work = Work("ann", 1, adapter, 0, base_change=change, trains=ODD, chooses=4)
    left = narrowed(work, {"q": (0, 2), "v": (0, 1, 2)})
    assert left.chooses is None
    assert left.base_change is not None
    assert left.base_change.ranks == {"q": 3}  # of v nothing is left to freeze
    assert left.adapter.ranks == {"q": 3, "v": 3}
    assert not left.adapter.modules["q"].a[1].any()
    assert not left.adapter.modules["q"].b[:, 1].any()
    whole = adapter.modules["q"].delta() + change.modules["q"].delta()
    torch.testing.assert_close(left.adapter.modules["q"].delta() + left.base_change.modules["q"].delta(), whole)
    torch.testing.assert_close(left.adapter.modules["v"].delta(), adapter.modules["v"].delta())
    assert narrowed(replace(work, base_change=None), {"q": (0, 1, 2), "v": (0, 1, 2)}).base_change is None


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    return resident(checkpoint("bert"), head="model", config=NO_DROPOUT)


def works(model: ResidentModel, trains: frozenset[Part], chooses: int | None) -> list[Work]:
    """Three clients that are sent the same adapter, of ranks 1 to 3, in which nothing is zero."""
    start = random_adapter(model)
    return [Work(f"c{i}", 2, start, seed=i, trains=trains, chooses=chooses) for i in range(3)]


def engine(model: ResidentModel, kind: type[Engine], count: int = 8, **options: object) -> Engine:
    held = {f"c{i}": examples(model, count, seed=i) for i in range(3)}
    chosen = TrainingConfig(**options)
    return Batched(model, TASK, held, chosen, 2) if kind is Batched else Sequential(model, TASK, held, chosen)


@pytest.mark.parametrize("trains", [ODD, EVEN], ids=["B", "A"])
@pytest.mark.parametrize("kind", [Sequential, Batched])
def test_what_is_chosen_is_trained_from_the_start_and_sent_alone(
    bert: ResidentModel, kind: type[Engine], trains: frozenset[Part]
):
    """In one step of plain gradient descent the rows that are trained move as in the probe: the model is the same."""
    asked = works(bert, trains, 5)
    inner = engine(bert, kind, **ONE_STEP)
    probed = {one.client: one for one in inner.run(works(bert, trains, None))}
    for outcome, work in zip(Choosing(inner).run(asked), asked, strict=True):
        assert outcome.client == work.client
        probe = probed[outcome.client].update(work)
        update = outcome.update(work)
        assert outcome.indices is not None
        assert update is not None
        assert probe is not None
        assert outcome.indices == best(work.adapter, probe.adapter, 5)
        assert sum(map(len, outcome.indices.values())) == sum(update.adapter.ranks.values()) == 5
        assert update.indices is outcome.indices
        expected = probe.adapter.picked(outcome.indices)
        for (name, found), (_, wanted) in zip(update.adapter.tensors(), expected.tensors(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=name)
        assert set(outcome.trained or {}) == set(work.adapter.parts(trains))


def test_clients_choose_by_their_own_data_and_what_is_left_out_does_not_move(bert: ResidentModel):
    """After several steps the chosen rows are others than with all of them; and two clients differ."""
    asked = works(bert, ODD, 5)
    inner = engine(bert, Sequential, 24, lr=5e-2, batch_size=8)
    probed = {one.client: one.update(asked[0]) for one in inner.run(works(bert, ODD, None))}
    outcomes = list(Choosing(inner).run(asked))
    assert len({str(outcome.indices) for outcome in outcomes}) > 1
    for outcome in outcomes:
        update, probe = outcome.update(asked[0]), probed[outcome.client]
        assert update is not None
        assert probe is not None
        of_probe = dict(probe.adapter.picked(outcome.indices or {}).tensors())
        assert any(not torch.equal(tensor, of_probe[name]) for name, tensor in update.adapter.tensors())


def test_who_chooses_all_trains_as_ever(bert: ResidentModel):
    """To the bit; a work that asks for no choice is the inner engine's, beside one that does."""
    inner = engine(bert, Sequential, 24, lr=5e-2, batch_size=8)
    plain = {one.client: one for one in inner.run(works(bert, ODD, None))}
    asked = [replace(work, chooses=None if work.client == "c1" else 1000) for work in works(bert, ODD, None)]
    for outcome in Choosing(inner).run(asked):
        assert (outcome.indices is None) == (outcome.client == "c1")
        for name, tensor in (outcome.trained or {}).items():
            assert torch.equal(tensor, (plain[outcome.client].trained or {})[name])


class Failing(Engine):
    """Trains nothing for c0, NaN for c1; closes once."""

    closed = 0

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        for work in works:
            if work.client == "c0":
                yield Outcome("c0", problem="its node is gone")
                continue
            value = float("nan") if work.client == "c1" else 1.0
            trained = {name: torch.full_like(t, value) for name, t in work.adapter.parts(work.trains).items()}
            yield Outcome(work.client, trained, 1.0)

    def close(self) -> None:
        self.closed += 1


def test_who_cannot_choose_is_left_out_with_the_reason():
    """In the order of the works; the others are not touched by it."""
    start = two([0.0, 0.0], [0.0, 0.0])
    inner = Failing()
    asked = [Work(client, 1, start, 0, trains=ODD, chooses=1) for client in ("c2", "c1", "c0")]
    third, second, first = Choosing(inner).run(asked)
    assert third.indices == {"q": (0,), "v": ()}
    assert (first.client, first.trained, first.problem) == ("c0", None, "its node is gone")
    assert (second.client, second.trained) == ("c1", None)
    assert second.problem == "NaN or infinite values in q.b after the training by which it would choose"
    Choosing(inner).close()
    assert inner.closed == 1
    assert Choosing(inner).wire == inner.wire
