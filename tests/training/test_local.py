"""Layers that are recomputed: the same updates from a part of the activations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.engine import Batched
from polyrank.training.local import Local
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests import writers
from tests.models import TASK, Checkpoints, examples, random_adapter, resident, updates
from tests.training.batched.test_engine import distance

DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "modernbert": {"attention_dropout": 0.1, "mlp_dropout": 0.1},
    "gpt2": {"resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    "llama": {"attention_dropout": 0.1},
}
RANKS = {"c1": 1, "c2": 4, "c3": 2}
STEP = {"batch_size": 4, "lr": 1e-2, "optimizer": "sgd"}


def engine(kind: str, model: ResidentModel, **options: object) -> Local:
    own = {name: examples(model, 5 + i, seed=i) for i, name in enumerate(RANKS)}
    training = TrainingConfig(**{**STEP, **options})
    return Sequential(model, TASK, own, training) if kind == "sequential" else Batched(model, TASK, own, training, 3)


def asked(model: ResidentModel) -> list[Work]:
    """No factor is zero, so that every one gets a gradient."""
    return [
        Work(name, 1, random_adapter(model, i, rank=rank, uneven=False), seed=i)
        for i, (name, rank) in enumerate(RANKS.items())
    ]


@pytest.mark.parametrize("kind", ["sequential", "batched"])
@pytest.mark.parametrize("architecture", DROPOUT)
def test_the_same_update(checkpoint: Checkpoints, architecture: str, kind: str):
    """To 1e-12 of it, in float64, with dropout before A and in the model; every tensor of the adapter moves."""
    model = resident(
        checkpoint(architecture),
        **{"dtype": torch.float64, "attention": "sdpa", "targets": "all-linear"},
        **{"dropout": 0.1, "config": DROPOUT[architecture]},
    )
    works = asked(model)
    plain, again = (updates(engine(kind, model, gradient_checkpointing=on), works) for on in (False, True))
    calm = updates(engine(kind, resident(checkpoint(architecture), dtype=torch.float64, targets="all-linear")), works)
    for one, other, still, work in zip(plain, again, calm, works, strict=True):
        assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-12)
        assert other.metrics["loss"] != pytest.approx(still.metrics["loss"], rel=1e-6)  # masks were drawn
        for (name, expected), (_, found), (_, start) in zip(
            one.adapter.tensors(), other.adapter.tensors(), work.adapter.tensors(), strict=True
        ):
            moved = expected - start
            assert moved.norm() > 0, name
            assert (found - expected).norm() <= 1e-12 * moved.norm(), name
    assert not model.model.training


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_same_bits_in_the_precisions_of_training(checkpoint: Checkpoints, precision: torch.dtype):
    """Under autocast and with packed layers too."""
    model = resident(checkpoint("bert"), dtype=precision, dropout=0.1, config=DROPOUT["bert"])
    for kind in ("sequential", "batched"):
        plain, again = (updates(engine(kind, model, gradient_checkpointing=on), asked(model)) for on in (False, True))
        assert all(one.adapter.identical(other.adapter) for one, other in zip(plain, again, strict=True))


def kept(way: Local, works: list[Work]) -> int:
    """Bytes that a pass keeps for its backward pass, weights left out."""
    parameters = {p.untyped_storage().data_ptr() for p in way.resident.model.parameters()}
    now: dict[int, int] = {}
    largest = 0

    def saved(tensor: Tensor) -> Tensor:
        nonlocal largest
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            now[storage.data_ptr()] = storage.nbytes()
            largest = max(largest, sum(now.values()))
        return tensor

    def used(tensor: Tensor) -> Tensor:
        now.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, used):
        list(way.run(works))
    return largest


@pytest.mark.parametrize("kind", ["sequential", "batched"])
@pytest.mark.parametrize(
    ("architecture", "layers"), [("bert", "num_hidden_layers"), ("gpt2", "n_layer"), ("llama", "num_hidden_layers")]
)
def test_at_most_half_is_kept(checkpoint: Checkpoints, architecture: str, layers: str, kind: str):
    """Of six layers; also with one layer whole, as it is while it is recomputed."""
    folder = checkpoint(architecture, **{layers: 6})
    model = resident(folder, targets="all-linear", dropout=0.1, config=DROPOUT[architecture])
    works = asked(model)
    all_of_them = kept(engine(kind, model), works)
    recomputing = engine(kind, model, gradient_checkpointing=True)
    assert kept(recomputing, works) < 0.25 * all_of_them
    recomputing.whole = 1
    assert kept(recomputing, works) < 0.5 * all_of_them


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_models_that_write(tmp_path: Path, quantization: str):
    """The same update in both engines, kept or recomputed, in one part or several; over packed weights as well."""
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    folder = writers.save(tmp_path, attention_dropout=0.1)
    model = writers.resident(folder, dtype=torch.float64, attention="sdpa", dropout=0.1, quantization=quantization)
    everything = writers.examples(model, 12)
    own = {name: everything.subset(range(i, 5 + 2 * i)) for i, name in enumerate(RANKS)}
    works = asked(model)
    for count in (1, 3):
        ends = [
            updates(way, works)
            for again in (False, True)
            for options in [TrainingConfig(**STEP, accumulate=count, gradient_checkpointing=again)]
            for way in (Sequential(model, writers.TASK, own, options), Batched(model, writers.TASK, own, options, 3))
        ]
        for found in zip(*ends, works, strict=True):
            *ways, work = found
            for way in ways[1:]:
                assert distance(way.adapter, ways[0].adapter, work.adapter) < 1e-10
            assert distance(ways[2].adapter, ways[0].adapter, work.adapter) < 1e-12
