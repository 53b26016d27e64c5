"""An adapter as Flower's arrays under the names of PEFT's state dict, as people's own apps have them."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.errors import FlowerError
from polyrank.flower.records import from_record, shapes_of, to_record

A, B = ".lora_A.weight", ".lora_B.weight"
WIRE = "float32"


def to_arrays(adapter: Adapter) -> ArrayRecord:
    """Factors and dense tensors; scales stay behind."""
    return to_record(_stored(adapter), WIRE)


def from_arrays(arrays: ArrayRecord) -> Adapter:
    """The adapter, of scale 1; what is no factor is dense.

    Raises:
        FlowerError: there are no factors, or one of a pair is missing.
        AdapterError: a pair does not fit.
    """
    tensors = {name: torch.from_numpy(array.numpy().copy()).float() for name, array in arrays.items()}
    names = sorted({name.removesuffix(end) for name in tensors for end in (A, B) if name.endswith(end)})
    if not names:
        some = ", ".join(list(arrays)[:3])
        raise FlowerError(f"the arrays have no LoRA factors: found {some}; expected names that end in {A} and {B}")
    if missing := [name + end for name in names for end in (A, B) if name + end not in tensors]:
        raise FlowerError(f"the arrays have no {missing[0]}; expected A and B of each module")
    modules = {name: Factors(tensors.pop(name + A), tensors.pop(name + B)) for name in names}
    return Adapter(modules, tensors)


def read_arrays(arrays: ArrayRecord, like: Adapter) -> Adapter:
    """Arrays that must have the names, shapes and dtype of an adapter that was sent, at its scales.

    Raises:
        FlowerError: they have others, or values are not finite or absurd.
    """
    stored = _stored(like)
    found = from_record(arrays, shapes_of(stored), WIRE)
    ours = dict(zip(stored, (name for name, _ in like.tensors()), strict=True))
    return like.replaced({ours[name]: tensor for name, tensor in found.items()})


def _stored(adapter: Adapter) -> dict[str, Tensor]:
    """Tensors by PEFT's names, in the order of `Adapter.tensors`."""
    modules = adapter.modules.items()
    factors = {name + end: tensor for name, own in modules for end, tensor in ((A, own.a), (B, own.b))}
    return {**factors, **adapter.dense}
