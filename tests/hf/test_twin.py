from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from polyrank.core.adapter import Adapter
from polyrank.hf.resident import ResidentModel
from polyrank.hf.speed.packed_linear import PackedLinear
from polyrank.hf.twin import twin
from polyrank.tasks.task import Tally
from polyrank.training.evaluate import evaluate
from tests.models import TASK, Checkpoints, examples, random_adapter, resident

ARCHITECTURES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama")


def places(model: ResidentModel) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.model.parameters(), *model.model.buffers())}


def own(model: ResidentModel) -> list[Tensor]:
    return list(model.trainable())


def change_of(model: ResidentModel) -> Adapter:
    return Adapter(random_adapter(model, 3, rank=1, uneven=False).modules)


def scores(model: ResidentModel) -> Tally:
    return evaluate(model, TASK, examples(model, 5), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_what_is_trained_is_its_own(checkpoint: Checkpoints, architecture: str, dtype: torch.dtype):
    """Frozen weights lie where those of the first lie; factors and head do not, whatever is installed beside them."""
    first = resident(checkpoint(architecture), dtype=dtype, targets="all-linear")
    first.install(random_adapter(first, 1), change_of(first))
    second = twin(first)
    others = {
        name: tensor for name, tensor in second.model.named_parameters() if tensor.data_ptr() not in places(first)
    }
    trained = {id(tensor) for tensor in own(second)}
    assert {id(tensor) for tensor in others.values()} - trained == {
        id(tensor) for name, tensor in others.items() if "polyrank_base_change" in name
    }
    assert trained <= {id(tensor) for tensor in others.values()}
    assert second.device == first.device
    assert second.dtype == first.dtype


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_has_an_adapter_of_its_own(checkpoint: Checkpoints, architecture: str):
    first = resident(checkpoint(architecture))
    one, other = (random_adapter(first, seed) for seed in (1, 2))
    first.install(one)
    before = scores(first)
    second = twin(first)
    assert second.extract().identical(one)
    second.install(other, change_of(first))
    second.set_attention("eager")
    assert first.extract().identical(one)
    assert str(scores(first)) == str(before) != str(scores(second))
    second.install(one)
    assert second.initial(2, 1.0, 0).identical(first.initial(2, 1.0, 0))


def test_packed_forms_are_shared_whoever_packs_them(checkpoint: Checkpoints):
    first = resident(checkpoint("bert"), dtype=torch.bfloat16)
    second = twin(first)
    scores(second)
    pairs = [
        (one, other)
        for one, other in zip(first.model.modules(), second.model.modules(), strict=True)
        if isinstance(one, PackedLinear)
    ]
    assert pairs
    for one, other in pairs:
        for transposed in (False, True):
            assert one.packed(transposed=transposed) is other.packed(transposed=transposed)
    assert "_packed" not in pickle.loads(pickle.dumps(pairs[0][0])).__dict__
