"""A second model over the same weights: what differs between two passes at a time is its own, what is frozen is one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from polyrank.hf.speed.packed_linear import PackedLinear

if TYPE_CHECKING:
    from polyrank.hf.resident import ResidentModel


def twin(resident: ResidentModel) -> ResidentModel:
    """A resident model with modules, adapter and head of its own, and the frozen weights of this one.

    Two threads can compute with the two at a time. Nothing of the base is copied, its packed forms included.
    """
    model = resident.model
    factors = [factor for layer in resident.layers.values() for factor in (layer.lora_A, layer.lora_B)]
    own = {
        id(parameter)
        for module in (*factors, *map(model.get_submodule, resident.base.head_modules))
        for parameter in module.parameters()
    }
    shared: dict[int, object] = {id(tensor): tensor for tensor in _tensors(model) if id(tensor) not in own}
    second = copy.deepcopy(resident, shared)
    for module, other in zip(model.modules(), second.model.modules(), strict=True):
        if isinstance(module, PackedLinear) and isinstance(other, PackedLinear):
            other.share(module)
    return second


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and tensors that modules keep as plain attributes."""
    found = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        found += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return found
