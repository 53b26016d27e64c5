"""An adapter as Flower's arrays under the names of PEFT's state dict, as people's own apps have them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import FlowerError
from polyrank.flower.records import from_record, shapes_of, to_record

LINEAR = (".lora_A.weight", ".lora_B.weight")
EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
"""Ends of A's and B's names. An embedding's are ``(rank, words)`` and ``(width, rank)``: cut as a layer's."""
OF_AN_EMBEDDING = ".lora_embedding"
"""End of an embedding's name in our adapter, by which it is known when it is sent."""
OTHER_PARTS = ("lora_", "vera_", "randlora_", "ia3_", "hada_", "lokr_", "oft_", "trainable_tokens_")
"""What PEFT's names have of all that its adapters train."""
WIRE = "float32"


def to_arrays(adapter: Adapter) -> ArrayRecord:
    """Factors and dense tensors; scales stay behind."""
    return to_record(_stored(adapter), WIRE)


def from_arrays(arrays: ArrayRecord) -> Adapter:
    """The adapter, of scale 1; what is no factor is dense.

    Raises:
        FlowerError: there are no factors, one of a pair is missing or not two-dimensional; or an array belongs to
            another adapter than LoRA of linear layers and embeddings, or holds no fractions.
        AdapterError: a pair does not fit.
    """
    found = {name: array.numpy() for name, array in arrays.items()}
    names = sorted({name.removesuffix(end) for name in found for end in LINEAR if name.endswith(end)})
    names += sorted({name[:-2] for name in found if name.endswith(EMBEDDING)})
    if not names:
        some = ", ".join(list(arrays)[:3])
        raise FlowerError(
            f"the arrays have no LoRA factors: found {some}; expected names that end in {' and '.join(LINEAR)}"
        )
    if missing := [end for name in names for end in _ends(name) if end not in found]:
        raise FlowerError(f"the arrays have no {missing[0]}; expected A and B of each module")
    factors = {end for name in names for end in _ends(name)}
    for name, values in found.items():
        if name in factors and values.ndim != 2:
            raise FlowerError(
                f"{name} has shape {values.shape}; expected two dimensions, of a linear layer or embedding"
            )
        if name not in factors:
            _check_dense(name, values, names)
    tensors = {name: torch.from_numpy(values.copy()).float() for name, values in found.items()}
    pairs = {name: [tensors.pop(end) for end in _ends(name)] for name in names}
    return Adapter({name: Factors(a, b) for name, (a, b) in pairs.items()}, tensors)


def _check_dense(name: str, values: np.ndarray, modules: Collection[str]) -> None:
    """Refuse what would be averaged as if it were a head's."""
    layers = [module.removesuffix(OF_AN_EMBEDDING) for module in modules]
    inside = any(name.startswith(f"{layer}.") for layer in layers) and ".base_layer." not in name
    if inside or any(part in name for part in OTHER_PARTS):
        what = "DoRA's magnitudes" if "magnitude" in name else "a bias of B" if "lora_B" in name else "of unknown use"
        raise FlowerError(
            f"the arrays have {name} ({what}), which is more than scale * B @ A and cannot be averaged with it; train "
            "plain LoRA, and send what get_peft_model_state_dict gives"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise FlowerError(f"{name} is {values.dtype}; expected fractions, which can be averaged: leave it out")


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
    factors = {
        end: tensor
        for name, own in adapter.modules.items()
        for end, tensor in zip(_ends(name), (own.a, own.b), strict=True)
    }
    return {**factors, **adapter.dense}


def _ends(name: str) -> tuple[str, str]:
    """PEFT's names of a module's A and B."""
    ends = ("_A", "_B") if name.endswith(OF_AN_EMBEDDING) else LINEAR
    return name + ends[0], name + ends[1]
