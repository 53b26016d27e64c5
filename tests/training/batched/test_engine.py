"""Batched equals sequential: the same works, several clients to a pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polyrank.config import TrainingConfig
from polyrank.core.adapter import PARTS, Adapter, Factors, Part
from polyrank.core.state import ClientUpdate
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training import batches as training_batches
from polyrank.training.batched.adapters import StackedAdapters
from polyrank.training.batched.engine import Batched
from polyrank.training.batched.stacked import StackedModel
from polyrank.training.dropout import UnbatchableError
from polyrank.training.sequential import Sequential
from polyrank.training.work import Penalty, Proximal, Work, in_passes
from tests.models import TASK, Checkpoints, examples, random_adapter, resident, updates
from tests.versions import as_tested

ARCHITECTURES = ("bert", "distilbert", "albert", "roberta", "llama")
DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1},
    "albert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1, "classifier_dropout_prob": 0.1},
    "roberta": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1},
    "distilbert": {"dropout": 0.2, "attention_dropout": 0.1, "seq_classif_dropout": 0.2},
    "llama": {"attention_dropout": 0.1},
}
RECIPES = {
    "plain": {},
    "everything": {"epochs": 2, "weight_decay": 0.1, "warmup": 0.3, "decay": "cosine", "clip": 0.5},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "weight_decay": 0.01, "decay": "linear"},
}
SIZES = {"c1": (1, 3), "c2": (4, 9), "c3": (2, 6), "c4": (3, 9)}
"""Client -> rank, examples: with batches of 4 unequal ranks, steps, batch sizes and lengths."""


@pytest.fixture(params=[2, 8], ids=["parts of 2", "parts of 8"])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that are computed at a time: half of a batch, or all of it."""
    monkeypatch.setattr(training_batches, "PART", request.param)


def asked(model: ResidentModel, **options: object) -> list[Work]:
    return [
        Work(name, 1, random_adapter(model, i, rank=rank, uneven=False), seed=i, **options)
        for i, (name, (rank, _)) in enumerate(SIZES.items())
    ]


def held(model: ResidentModel) -> dict[str, Examples]:
    return {name: examples(model, count, seed=i) for i, (name, (_, count)) in enumerate(SIZES.items())}


def batched(
    model: ResidentModel, works: Sequence[Work], options: TrainingConfig, per_pass: int = 4
) -> list[ClientUpdate]:
    return updates(Batched(model, TASK, held(model), options, per_pass), works)


def distance(found: Adapter, expected: Adapter, start: Adapter) -> float:
    """Norm of the difference, relative to the norm of the update."""
    pairs = zip(found.tensors(), expected.tensors(), start.tensors(), strict=True)
    off = [((f - e).norm(), (e - s).norm()) for (_, f), (_, e), (_, s) in pairs]
    return float(torch.stack([o for o, _ in off]).norm() / torch.stack([u for _, u in off]).norm())


def both(
    model: ResidentModel,
    works: Sequence[Work],
    per_pass: int,
    rounds: int = 1,
    own: Mapping[str, Examples] | None = None,
    **recipe: object,
) -> list[float]:
    """Distances of the clients' adapters after some rounds, each way going on from its own results."""
    options = TrainingConfig(**{"batch_size": 4, "lr": 1e-2} | recipe)
    own = own or held(model)
    ways = (Sequential(model, TASK, own, options), Batched(model, TASK, own, options, per_pass))
    ends: list[list[ClientUpdate]] = []
    for way in ways:
        current = list(works)
        for number in range(rounds):
            found = updates(way, [replace(work, seed=work.seed + 100 * number) for work in current])
            current = [replace(work, adapter=update.adapter) for work, update in zip(works, found, strict=True)]
        ends.append(found)
    for one, other in zip(*ends, strict=True):
        assert one.metrics["steps"] == other.metrics["steps"]
        assert one.weight == other.weight == len(own[one.client])
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-2)
    return [distance(other.adapter, one.adapter, work.adapter) for one, other, work in zip(*ends, works, strict=True)]


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize(("recipe", "attention"), [("plain", "sdpa"), ("everything", "eager"), ("sgd", "sdpa")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64(checkpoint: Checkpoints, architecture: str, recipe: str, attention: str):
    """To 1e-10, with dropout in the model and before A, for passes of several clients and of one."""
    model = resident(
        checkpoint(architecture),
        dtype=torch.float64,
        attention=attention,
        dropout=0.1,
        config=DROPOUT[architecture],
    )
    for per_pass in (1, 3):
        assert max(both(model, asked(model), per_pass, **RECIPES[recipe])) < 1e-10


def test_a_window_of_attention_with_dropout(checkpoint: Checkpoints):
    """Padding beyond the window sees nothing, which must give nothing, and not NaN."""
    model = resident(checkpoint("modernbert"), dtype=torch.float64, attention="sdpa", config={"attention_dropout": 0.1})
    assert max(both(model, asked(model), 4)) < 1e-10


@pytest.mark.parametrize(("recipe", "bound"), [({"optimizer": "sgd", "lr": 1e-3}, 1e-4), ({"lr": 1e-3}, 1e-1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_after_five_rounds(checkpoint: Checkpoints, architecture: str, recipe: dict, bound: float):
    """AdamW has the wider bound: its first step has the sign of a gradient, however near to zero that is."""
    model = resident(checkpoint(architecture), dropout=0.1, config=DROPOUT[architecture])
    assert max(both(model, asked(model), 4, rounds=5, **recipe)) < bound


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_as_near_to_float32_as_the_sequential_engine(checkpoint: Checkpoints, architecture: str):
    """On average over the clients at most 1.5 times as far, plus 0.02 of the update's norm."""
    exact, rounded = (
        resident(checkpoint(architecture), dtype=dtype, config=DROPOUT[architecture])
        for dtype in (torch.float32, torch.bfloat16)
    )
    options = TrainingConfig(batch_size=4, optimizer="sgd", lr=1e-3)
    works, own = asked(exact), held(exact)
    truth = updates(Sequential(exact, TASK, own, options), works)

    def off(engine: Sequential | Batched) -> float:
        pairs = zip(updates(engine, works), truth, works, strict=True)
        return sum(distance(u.adapter, t.adapter, work.adapter) for u, t, work in pairs) / len(works)

    assert off(Batched(rounded, TASK, own, options, 4)) < 1.5 * off(Sequential(rounded, TASK, own, options)) + 0.02


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "llama", "gpt2", "modernbert"])
def test_all_linear_layers(checkpoint: Checkpoints, architecture: str):
    """Layers whose input is not the hidden states, Conv1D bases, and heads with a norm."""
    model = resident(checkpoint(architecture), dtype=torch.float64, targets="all-linear")
    assert max(both(model, asked(model), 4)) < (1e-10 if as_tested("torch") else 1e-9)


@pytest.mark.parametrize("trains", [{"a"}, {"b", "head"}, {"head"}])
def test_only_what_is_trained_changes(checkpoint: Checkpoints, trains: set[str]):
    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = asked(model, trains=frozenset(trains))
    assert max(both(model, works, 4, weight_decay=0.1)) < 1e-10
    engine = Batched(model, TASK, held(model), TrainingConfig(weight_decay=0.1), 4)
    whole: list[Adapter] = []
    original = StackedAdapters.extract

    def extract(self: StackedAdapters) -> list[Adapter]:
        whole.extend(original(self))
        return whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedAdapters, "extract", extract)
        outcomes = {outcome.client: outcome for outcome in engine.run(works)}
    for work, adapter in zip(in_passes(works, 4, held(model), engine.options.batch_size)[0], whole, strict=True):
        assert outcomes[work.client].trained.keys() == work.adapter.parts(trains).keys()
        for (name, before), (_, after) in zip(work.adapter.tensors(), adapter.tensors(), strict=True):
            part = name.rpartition(".")[2] if name.endswith((".a", ".b")) else "head"
            assert torch.equal(before.double(), after) == (part not in trains), name


def test_scales_of_their_own(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = [
        replace(
            work,
            adapter=Adapter(
                {n: replace(f, scale=0.5 * (i + 1)) for n, f in work.adapter.modules.items()}, work.adapter.dense
            ),
        )
        for i, work in enumerate(asked(model))
    ]
    assert max(both(model, works, 4)) < 1e-10


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("same", [True, False])
def test_base_changes(checkpoint: Checkpoints, same: bool):
    """One for all, one for each (of unequal ranks), and none for some."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    shared = Adapter(random_adapter(model, 9, rank=2, uneven=False).modules)
    changes = (
        [shared] * 4 if same else [Adapter(random_adapter(model, i, rank=i, uneven=False).modules) for i in (1, 2, 3)]
    )
    works = [replace(w, base_change=change) for w, change in zip(asked(model), [*changes, None][:4], strict=True)]
    assert max(both(model, works, 4)) < 1e-10


def test_one_base_change_that_came_as_several_is_one(checkpoint: Checkpoints):
    """As works of one pass have it in another process, each its own copy: the same result, bit for bit."""
    model = resident(checkpoint("bert"))
    shared = Adapter(random_adapter(model, 9, rank=2, uneven=False).modules)
    options = TrainingConfig(batch_size=4)
    one = batched(model, asked(model, base_change=shared), options)
    several = batched(model, [replace(w, base_change=shared.map(torch.clone)) for w in asked(model)], options)
    assert all(a.adapter.identical(b.adapter) for a, b in zip(one, several, strict=True))
    assert [update.metrics for update in one] == [update.metrics for update in several]


@pytest.mark.usefixtures("part")
def test_the_penalty(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), dtype=torch.float64)
    works = [replace(w, penalty=Penalty(1, 0.1)) if w.adapter.rank > 1 else w for w in asked(model)]
    assert max(both(model, works, 4)) < 1e-10


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_proximal_term_and_the_share_of_the_learning_rate(checkpoint: Checkpoints, recipe: str):
    """Of each client its own: weights, parts and shares differ, and one has no term."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    parts: list[frozenset[Part]] = [frozenset({"a", "b"}), frozenset({"head"}), PARTS]
    near = [None, *(Proximal(weight, own) for weight, own in zip((0.3, 7.0, 1.1), parts, strict=True))]
    works = [
        replace(work, proximal=own, lr_share=share)
        for work, own, share in zip(asked(model), near, (1.0, 0.7, 0.1, 0.45), strict=True)
    ]
    for per_pass in (1, 3):
        assert max(both(model, works, per_pass, **{"epochs": 3} | RECIPES[recipe])) < 1e-10
    options = TrainingConfig(batch_size=4, epochs=3)
    plain, pulled = batched(model, asked(model), options), batched(model, works, options)
    assert [one.adapter.identical(other.adapter) for one, other in zip(plain, pulled, strict=True)] == [True] + [
        False
    ] * 3


def test_the_proximal_term_of_what_alone_is_trained(checkpoint: Checkpoints):
    """As in a round of rolora."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    trains: frozenset[Part] = frozenset({"a", "head"})
    assert max(both(model, asked(model, trains=trains, proximal=Proximal(5.0, trains)), 4, epochs=3)) < 1e-10


def test_padding_stays_zero(checkpoint: Checkpoints):
    """Gradients and values beyond a client's rank, after several steps of AdamW with decay."""
    model = resident(checkpoint("bert"))
    seen: list[Tensor] = []
    original = StackedAdapters.extract

    def extract(self: StackedAdapters) -> list[Adapter]:
        for place, buffer in itertools.product(self.layout.trained, (self._buffer, self._gradient)):
            for whole, adapter in zip(place.view(buffer), self.adapters, strict=True):
                rank = adapter.modules[place.module].rank if place.module in self.model.lora else None
                beyond = {"a": whole[rank:], "b": whole[..., rank:]}.get(place.attribute)
                if beyond is not None:
                    seen.append(beyond)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedAdapters, "extract", extract)
        batched(model, asked(model), TrainingConfig(batch_size=4, epochs=3, weight_decay=0.1))
    assert sum(tensor.numel() for tensor in seen) > 0
    assert all(bool((tensor == 0).all()) for tensor in seen)


@pytest.mark.usefixtures("part")
def test_a_client_that_is_done_does_not_change(checkpoint: Checkpoints):
    """Bit by bit: its row after its last step is its row at the end, while others go on."""
    model = resident(checkpoint("bert"))
    works = asked(model)
    history: dict[int, list[Tensor]] = {}
    original = StackedAdapters.collect

    def collect(self: StackedAdapters) -> None:
        history.setdefault(id(self), []).append(self._buffer.clone())
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedAdapters, "collect", collect)
        options = TrainingConfig(batch_size=4, weight_decay=0.1, momentum=0.9, optimizer="sgd")
        after = {u.client: u for u in batched(model, works, options)}
    (before,) = history.values()
    assert [after[work.client].metrics["steps"] for work in works] == [1, 3, 2, 3]
    in_pass = ["c2", "c4", "c3", "c1"]  # by steps
    for client, steps in (("c3", 2), ("c1", 1)):
        row = in_pass.index(client)
        assert torch.equal(before[steps][row], before[-1][row])
        assert not torch.equal(before[steps - 1][row], before[steps][row])


def test_a_client_with_nan_does_not_touch_the_others(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), dropout=0.1)
    works = asked(model)
    options = TrainingConfig(batch_size=4)
    good = {u.client: u for u in batched(model, works, options)}
    poisoned = works[1].adapter.map(lambda t: torch.full_like(t, math.nan))
    works[1] = replace(works[1], adapter=poisoned)
    found = {u.client: u for u in batched(model, works, options)}
    for client, update in found.items():
        if client == "c2":
            assert update.adapter.first_not_finite()
        else:
            assert update.adapter.identical(good[client].adapter)


def test_the_model_is_as_it_was(checkpoint: Checkpoints):
    """What was installed stays installed, and the sequential engine goes on as if nothing had been."""
    model = resident(checkpoint("bert"))
    before = random_adapter(model, 3)
    model.install(before)
    batched(model, asked(model), TrainingConfig())
    assert model.extract().identical(before)
    assert all(
        not isinstance(module, nn.Module) or "Stacked" not in type(module).__name__ for module in model.model.modules()
    )


def test_a_wrong_adapter_is_named(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"))
    works = asked(model)
    name = next(iter(works[0].adapter.modules))
    modules = dict(works[0].adapter.modules) | {name: Factors(torch.zeros(1, 3), torch.zeros(16, 1))}
    works[0] = replace(works[0], adapter=Adapter(modules, works[0].adapter.dense))
    with pytest.raises(Exception, match=r"query"):
        batched(model, works, TrainingConfig())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.BatchNorm1d(4), "BatchNorm1d, which normalises over the examples"),
        (type("MixtralSparseMoeBlock", (nn.Module,), {}), "experts may share a capacity"),
    ],
)
def test_what_couples_examples_is_refused(checkpoint: Checkpoints, make: object, reason: str):
    model = resident(checkpoint("bert"))
    model.model.add_module("odd", make())  # type: ignore[operator]
    with pytest.raises(UnbatchableError, match=reason):
        StackedModel(model)


def test_a_head_of_an_unknown_kind_is_refused(checkpoint: Checkpoints):
    model = resident(checkpoint("bert"), head="mean-pool")
    model.model.classifier = nn.Bilinear(2, 2, 2)
    with pytest.raises(UnbatchableError, match="classifier is a Bilinear"):
        StackedModel(model)


@pytest.mark.usefixtures("part")
def test_short_texts_beside_long_ones(checkpoint: Checkpoints):
    """A client whose texts are all shorter than another's, with dropout: its masks do not depend on the padding."""
    model = resident(checkpoint("bert"), dtype=torch.float64, config=DROPOUT["bert"])
    own = held(model)
    short = own["c1"]
    own["c1"] = Examples(tuple(t[:3] for t in short.tokens), short.targets, short.pad_id)
    assert max(both(model, asked(model), 4, own=own)) < 1e-10
