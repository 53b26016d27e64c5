from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.adapter import PARTS, Adapter, Factors
from polyrank.core.state import ClientUpdate
from polyrank.hf.load import load_base
from polyrank.hf.merged import merge_into
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training.evaluate import evaluate
from polyrank.training.sequential import Sequential, penalty
from polyrank.training.work import Penalty, Proximal, Work
from tests.models import LABELS, TASK, Checkpoints, examples, random_adapter, resident, updates
from tests.versions import as_tested

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    """With BERT's usual dropout."""
    return resident(checkpoint("bert"), head="model")


@pytest.fixture
def calm(checkpoint: Checkpoints) -> ResidentModel:
    """Without dropout."""
    return resident(checkpoint("bert"), head="model", config=NO_DROPOUT)


Held = Examples | Mapping[str, Examples]
"""Every client's examples, or those of each."""


def engine(model: ResidentModel, works: list[Work], held: Held, **options: object) -> Sequential:
    own = dict.fromkeys((work.client for work in works), held) if isinstance(held, Examples) else held
    return Sequential(model, TASK, own, TrainingConfig(**options))


def train(model: ResidentModel, works: list[Work], held: Held, **options: object) -> list[ClientUpdate]:
    return updates(engine(model, works, held, **options), works)


def three(model: ResidentModel) -> tuple[list[Work], dict[str, Examples]]:
    """Clients of ranks 1, 3 and 5 with data of their own."""
    works = [Work(f"c{rank}", 1, model.initial(rank, 2.0, 0), seed=rank) for rank in (1, 3, 5)]
    return works, {work.client: examples(model, 5 + work.adapter.rank, seed=work.adapter.rank) for work in works}


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2"])
def test_a_work_gives_the_same_whatever_else_runs(checkpoint: Checkpoints, architecture: str):
    """Bit for bit: in another order, alone on a fresh model, and under another state of the global generators."""
    model = resident(checkpoint(architecture), dropout=0.1)
    works, held = three(model)
    torch.manual_seed(1)
    first = {update.client: update for update in train(model, works, held, batch_size=3, epochs=2)}
    torch.manual_seed(2)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    again = {update.client: update for update in train(model, works[::-1], held, batch_size=3, epochs=2)}
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    alone = train(resident(checkpoint(architecture), dropout=0.1), works[1:2], held, batch_size=3, epochs=2)[0]
    assert alone.adapter.identical(first["c3"].adapter)
    for client, update in first.items():
        assert update.adapter.identical(again[client].adapter)
        assert update.metrics == again[client].metrics


def test_dropout_comes_from_the_seed(bert: ResidentModel):
    """One batch of all examples leaves nothing else to draw: another seed is another dropout."""
    adapter, data = bert.initial(2, 2.0, 0), examples(bert, 4)
    first, again, other = train(bert, [Work("a", 1, adapter, seed) for seed in (1, 1, 2)], data, batch_size=4)
    assert first.adapter.identical(again.adapter)
    assert not first.adapter.identical(other.adapter)


def test_batches_come_from_the_seed(calm: ResidentModel):
    """Without dropout the order of the batches is all that differs."""
    adapter, data = calm.initial(2, 2.0, 0), examples(calm, 8)
    first, again, other = train(calm, [Work("a", 1, adapter, seed) for seed in (1, 1, 2)], data, batch_size=2)
    assert first.adapter.identical(again.adapter)
    assert not first.adapter.identical(other.adapter)


def test_an_outcome_says_what_was_done(calm: ResidentModel):
    """7 examples in batches of 3 are 3 steps, twice over: 6. The weight is their number."""
    adapter = calm.initial(2, 2.0, 0)
    sent = adapter.map(torch.clone)
    (update,) = train(calm, [Work("anna", 1, adapter, 0)], examples(calm, 7), batch_size=3, epochs=2)
    assert (update.client, update.weight, update.metrics["steps"]) == ("anna", 7.0, 6)
    assert adapter.identical(sent)
    assert not calm.model.training


def test_outcomes_come_one_by_one(calm: ResidentModel):
    """What is done with the model between two outcomes does not reach the next client."""
    works, held = three(calm)
    expected = train(calm, works, held)
    for number, outcome in enumerate(engine(calm, works, held).run(works)):
        assert outcome.update(works[number]).adapter.identical(expected[number].adapter)
        calm.install(random_adapter(calm, seed=number))
        calm.model.train()


def by_hand(
    checkpoint: Checkpoints,
    start: Adapter,
    data: Examples,
    steps: int,
    update: Callable[[int, list[Tensor]], None],
    *,
    term: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
) -> tuple[Adapter, float]:
    """The same fine-tuning in float64 without PEFT: every weight is ``W + scale B A``, on all examples at each step.

    ``update(step, leaves)`` changes the leaves by their gradients, already clipped. The order of the leaves is that of
    `Adapter.tensors`. ``term`` is added to the loss, for autograd and not for the report. Returns the trained adapter
    and the mean loss.
    """
    base = load_base(ModelConfig(name=str(checkpoint("bert")), head="model", config=NO_DROPOUT), LABELS).model.double()
    weights = {name: parameter.detach() for name, parameter in base.named_parameters()}
    leaves = {name: tensor.double().requires_grad_() for name, tensor in start.tensors()}
    inputs = TASK.collate([(data, range(len(data)))], torch.device("cpu"))
    losses = []
    for step in range(steps):
        changed = dict(weights)
        for name, factors in start.modules.items():
            changed[f"{name}.weight"] = weights[f"{name}.weight"] + factors.scale * (
                leaves[f"{name}.b"] @ leaves[f"{name}.a"]
            )
        changed |= {name: leaves[name] for name in start.dense}
        logits = torch.func.functional_call(base, changed, (inputs.input_ids, inputs.attention_mask)).logits
        loss = -torch.log_softmax(logits, dim=1)[range(len(inputs.targets)), inputs.targets].mean()
        (loss if term is None else loss + term(leaves)).backward()
        losses.append(loss.item())
        with torch.no_grad():
            update(step, list(leaves.values()))
        for leaf in leaves.values():
            leaf.grad = None
    trained = {name: leaf.detach().float() for name, leaf in leaves.items()}
    modules = {
        name: Factors(trained[f"{name}.a"], trained[f"{name}.b"], factors.scale)
        for name, factors in start.modules.items()
    }
    return Adapter(modules, {name: trained[name] for name in start.dense}), float(np.mean(losses))


def clip(leaves: list[Tensor], longest: float) -> float:
    """Scale all gradients down to a common norm; returns the norm they had."""
    norm = float(torch.sqrt(sum((leaf.grad**2).sum() for leaf in leaves)))
    for leaf in leaves:
        leaf.grad *= min(1.0, longest / norm)
    return norm


def close(found: Adapter, expected: Adapter, start: Adapter, share: float) -> None:
    """The change of each tensor is right up to a share of the largest change."""
    right, before = dict(expected.tensors()), dict(start.tensors())
    for name, tensor in found.tensors():
        change = (right[name] - before[name]).abs().max()
        assert change > 0, name
        assert (tensor - right[name]).abs().max() <= share * change, name


@pytest.mark.parametrize("longest", [0.05, 1e6, 0], ids=["clipped", "within", "off"])
def test_sgd_by_hand(checkpoint: Checkpoints, calm: ResidentModel, longest: float):
    """``v = g + decay p + momentum v`` and ``p - lr v`` with g cut to its norm; a norm of 0 is no clipping."""
    start, data = random_adapter(calm), examples(calm, 6)
    (update,) = train(
        *(calm, [Work("a", 1, start, 0)], data),
        **{"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.2, "momentum": 0.5, "clip": longest},
        **{"batch_size": 6, "epochs": 2},
    )
    velocity: dict[int, Tensor] = {}
    norms = []

    def step(number: int, leaves: list[Tensor]) -> None:
        norms.append(clip(leaves, longest or math.inf))
        for i, leaf in enumerate(leaves):
            gradient = leaf.grad + 0.2 * leaf
            velocity[i] = gradient if number == 0 else 0.5 * velocity[i] + gradient
            leaf.sub_(0.1 * velocity[i])

    expected, loss = by_hand(checkpoint, start, data, 2, step)
    assert all((norm > longest) == (longest < 1) for norm in norms)  # the cases are what they are called
    close(update.adapter, expected, start, share=1e-4)
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("longest", [0.05, 0], ids=["clipped", "off"])
@pytest.mark.parametrize("parts", [PARTS, {"a", "b"}, {"a"}, {"b", "head"}], ids=lambda parts: ",".join(sorted(parts)))
def test_the_proximal_term_is_the_gradient_of_the_term_itself(
    checkpoint: Checkpoints, calm: ResidentModel, parts: frozenset[str], longest: float
):
    """``mu / 2 |w - w0|^2`` of these parts, by autograd, over three steps; the loss that is reported is the task's."""
    start, data = random_adapter(calm), examples(calm, 6)
    near = Proximal(4.0, frozenset(parts))
    (update,) = train(
        *(calm, [Work("a", 1, start, 0, proximal=near)], data),
        **{"optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "clip": longest, "batch_size": 6, "epochs": 3},
    )
    velocity: dict[int, Tensor] = {}
    chosen = {name: tensor.double() for name, tensor in start.parts(near.parts).items()}

    def term(leaves: Mapping[str, Tensor]) -> Tensor:
        return 2.0 * sum(((leaves[name] - tensor) ** 2).sum() for name, tensor in chosen.items())

    def step(number: int, leaves: list[Tensor]) -> None:
        clip(leaves, longest or math.inf)
        for i, leaf in enumerate(leaves):
            velocity[i] = leaf.grad if number == 0 else 0.5 * velocity[i] + leaf.grad
            leaf.sub_(0.1 * velocity[i])

    expected, loss = by_hand(checkpoint, start, data, 3, step, term=term)
    close(update.adapter, expected, start, share=2e-4)
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_first_step_knows_nothing_of_the_proximal_term_and_the_next_ones_stay_near(calm: ResidentModel):
    start, data = random_adapter(calm), examples(calm, 6)
    options = {"optimizer": "sgd", "lr": 0.02, "clip": 0, "batch_size": 6}
    works = [Work("a", 1, start, 0, proximal=near) for near in (None, Proximal(20.0, PARTS), Proximal(40.0, PARTS))]
    first = train(calm, works, data, **options)
    assert all(one.adapter.identical(first[0].adapter) and one.metrics == first[0].metrics for one in first)
    far = [one.adapter for one in train(calm, works, data, epochs=8, **options)]
    began = dict(start.tensors())
    gone = [sum(float((tensor - began[name]).norm() ** 2) for name, tensor in one.tensors()) for one in far]
    assert gone[0] > gone[1] > gone[2] > 0


def test_the_share_of_the_learning_rate_is_one_of_every_step(calm: ResidentModel):
    """A quarter of 0.02 is 0.005, to the last bit, under a schedule within the round too."""
    start, data = random_adapter(calm), examples(calm, 6)
    options = {"batch_size": 2, "epochs": 2, "warmup": 0.3, "decay": "cosine"}
    (less,) = train(calm, [Work("a", 1, start, 0, lr_share=0.25)], data, lr=0.02, **options)
    (same,) = train(calm, [Work("a", 1, start, 0)], data, lr=0.005, **options)
    (other,) = train(calm, [Work("a", 1, start, 0)], data, lr=0.02, **options)
    assert less.adapter.identical(same.adapter)
    assert not less.adapter.identical(other.adapter)


def test_adamw_by_hand(checkpoint: Checkpoints, calm: ResidentModel):
    """Three steps by its formulas, under a warm-up of one step and a linear decay: lr / 2, lr, lr / 2."""
    start, data = random_adapter(calm), examples(calm, 6)
    (update,) = train(
        *(calm, [Work("a", 1, start, 0)], data),
        **{"lr": 0.02, "weight_decay": 0.1, "clip": 0.5, "batch_size": 6, "epochs": 3},
        **{"warmup": 0.3, "decay": "linear"},
    )
    first: dict[int, Tensor] = {}
    second: dict[int, Tensor] = {}

    def step(number: int, leaves: list[Tensor]) -> None:
        clip(leaves, 0.5)
        lr = 0.02 * (0.5, 1.0, 0.5)[number]
        for i, leaf in enumerate(leaves):
            first[i] = 0.9 * first.get(i, torch.zeros_like(leaf)) + 0.1 * leaf.grad
            second[i] = 0.999 * second.get(i, torch.zeros_like(leaf)) + 0.001 * leaf.grad**2
            mean, square = first[i] / (1 - 0.9 ** (number + 1)), second[i] / (1 - 0.999 ** (number + 1))
            leaf.sub_(lr * 0.1 * leaf + lr * mean / (square.sqrt() + 1e-8))

    expected, loss = by_hand(checkpoint, start, data, 3, step)
    close(update.adapter, expected, start, share=1e-2)
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-4)


def test_every_client_starts_with_a_fresh_optimiser(calm: ResidentModel):
    """Of two equal works the second does not feel the momentum of the first."""
    work = Work("a", 1, random_adapter(calm), 0)
    first, second = train(calm, [work, work], examples(calm, 4), epochs=3)
    assert first.adapter.identical(second.adapter)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [("bert", "mean-pool"), ("distilbert", "model"), ("modernbert", "model"), ("gpt2", "model"), ("llama", "model")],
)
def test_a_toy_task_is_learned(checkpoint: Checkpoints, architecture: str, head: str):
    """The topic of a text shows in single words; the best constant answer has a loss of about ln 2 = 0.69."""
    model = resident(checkpoint(architecture), head=head)
    data = examples(model, 160)
    work = Work("a", 1, model.initial(4, 2.0, 0), 0)
    (update,) = train(model, [work], data, lr=0.01, epochs=10, batch_size=16)
    model.install(work.adapter)
    before = TASK.measured(evaluate(model, TASK, data, 64))
    model.install(update.adapter)
    after = TASK.measured(evaluate(model, TASK, data, 64))
    assert after["loss"] < 0.5 < before["loss"]
    assert after["accuracy"] > (0.75 if as_tested("torch") else 0.74)  # 120 of 160 are 0.75


def test_values_that_are_not_finite_come_back_as_they_are(calm: ResidentModel):
    """And the client after is not touched by them."""
    works, held = three(calm)
    alone = train(calm, works[1:2], held)[0]
    works[0] = replace(works[0], adapter=works[0].adapter.map(lambda tensor: torch.full_like(tensor, torch.nan)))
    broken, good, _ = train(calm, works, held)
    assert broken.adapter.first_not_finite() is not None
    assert np.isnan(broken.metrics["loss"])
    assert good.adapter.identical(alone.adapter)


def test_a_learning_rate_that_explodes(calm: ResidentModel):
    work = Work("a", 1, calm.initial(2, 2.0, 0), 0)
    (update,) = train(calm, [work], examples(calm, 8), optimizer="sgd", lr=1e30, clip=0.0, batch_size=2)
    assert update.adapter.first_not_finite() is not None


def test_bfloat16_learns_too(checkpoint: Checkpoints):
    """The adapter stays in float32 under a bfloat16 base."""
    model = resident(checkpoint("bert"), dtype=torch.bfloat16, head="mean-pool")
    data = examples(model, 160)
    (update,) = train(model, [Work("a", 1, model.initial(4, 2.0, 0), 0)], data, lr=0.01, epochs=10)
    assert {tensor.dtype for _, tensor in update.adapter.tensors()} == {torch.float32}
    model.install(update.adapter)
    assert TASK.measured(evaluate(model, TASK, data, 64))["accuracy"] > 0.75


def zeros_like(adapter: Adapter) -> Adapter:
    return adapter.map(torch.zeros_like)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2"])
def test_training_beside_a_base_change_is_training_on_the_changed_base(checkpoint: Checkpoints, architecture: str):
    """The same SGD steps, up to rounding, as on a base whose weights have the change added."""
    beside = resident(checkpoint(architecture), head="model")
    change = Adapter(random_adapter(beside, seed=1).modules)
    base = load_base(ModelConfig(name=str(checkpoint(architecture)), head="model"), LABELS)
    merge_into(base, change)
    on_top = ResidentModel(base)
    options = {"optimizer": "sgd", "lr": 0.05, "batch_size": 3, "epochs": 2}
    adapter, data = beside.initial(2, 2.0, 0), examples(beside, 6)
    (one,) = train(beside, [Work("a", 1, adapter, 5, base_change=change)], data, **options)
    (other,) = train(on_top, [Work("a", 1, adapter, 5)], data, **options)
    (without,) = train(beside, [Work("a", 1, adapter, 5)], data, **options)
    found, expected = dict(one.adapter.tensors()), dict(other.adapter.tensors())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-4)
    assert not all(torch.allclose(expected[n], t, rtol=1e-3, atol=1e-5) for n, t in without.adapter.tensors())


def tails(kept: int, *factors: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(a[kept:], b[:, kept:]) for a, b in factors]


def test_the_regulariser_by_hand():
    """Rank 3, one kept. Rows 1 and 2 of A hold 3 and 4, columns 1 and 2 of B hold 5 and 12: 5 * 13 = 65. In the other
    module 2 * 1 = 2. Times 0.5: 33.5. The first rank index, however large, counts nothing."""
    first = torch.tensor([[1e9], [3.0], [4.0]]), torch.tensor([[1e9, 5.0, 12.0]])
    second = torch.tensor([[7.0], [2.0], [0.0]]), torch.tensor([[7.0, 0.0, -1.0]])
    assert penalty(tails(1, first, second), Penalty(1, 0.5)).item() == 33.5
    assert penalty(tails(3, first, second), Penalty(3, 0.5)).item() == 0.0


@pytest.mark.parametrize("zero", [(), ("b",), ("a",), ("a", "b")])
def test_the_regularisers_gradient(zero: tuple[str, ...]):
    """Against differences in float64. At zero B, where every client starts, |h| - |-h| = 0: so is the gradient."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 3, generator=draw).double(), torch.randn(5, 4, generator=draw).double()
    for name, factor in (("a", a[2:]), ("b", b[:, 2:])):
        if name in zero:
            factor.zero_()
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: penalty(tails(2, (a, b), (2 * a, b)), Penalty(2, 0.3)), (a, b))
    penalty(tails(2, (a, b)), Penalty(2, 0.3)).backward()
    assert not a.grad[:2].any()
    assert not b.grad[:, :2].any()
    if not zero:
        torch.testing.assert_close(b.grad[:, 2:], 0.3 * a[2:].norm() * b[:, 2:] / b[:, 2:].norm())
    else:
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


def test_the_regulariser_makes_the_tail_smaller_and_is_no_part_of_the_loss_that_is_reported(calm: ResidentModel):
    """One step: the loss before it is the same; after it the last rank index is nearer to zero, the first is not."""
    adapter, data = random_adapter(calm, rank=3, uneven=False), examples(calm, 4)
    options = {"optimizer": "sgd", "lr": 1e-2, "batch_size": 4, "clip": 0}
    works = [Work("a", 1, adapter, 0, penalty=p) for p in (None, Penalty(2, 0.0), Penalty(2, 1.0))]
    plain, idle, pushed = train(calm, works, data, **options)
    assert plain.adapter.identical(idle.adapter)
    assert plain.metrics == pushed.metrics
    for name, without in plain.adapter.modules.items():
        within = pushed.adapter.modules[name]
        assert within.b[:, 2:].norm() < without.b[:, 2:].norm()
        assert within.a[2:].norm() < without.a[2:].norm()
        torch.testing.assert_close(within.a[:2], without.a[:2])
        torch.testing.assert_close(within.b[:, :2], without.b[:, :2])
    (of_zero,) = train(calm, [Work("a", 1, zeros_like(adapter), 0, penalty=Penalty(2, 1.0))], data, **options)
    assert of_zero.adapter.first_not_finite() is None
