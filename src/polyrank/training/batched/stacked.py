"""A resident model whose adapted layers and head have parameters with a leading axis of clients.

A batch holds the clients' examples one client after another, the same number of rows each. The frozen layers see it as
any batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.layers import StackedLayerNorm, StackedLinear, StackedLora
from polyrank.training.dropout import UnbatchableError, refuse_layer_drop


class StackedModel:
    """A resident model that can hold several adapters at once.

    Args:
        resident: the base; outside of `installed` it is as it was.

    Raises:
        UnbatchableError: something in the model couples the rows of a batch, or is trained and has no stacked form.
    """

    def __init__(self, resident: ResidentModel) -> None:
        self.resident = resident
        _refuse_coupling(resident.model)
        refuse_layer_drop(resident.model)
        self.lora: dict[str, StackedLora] = {}
        for name, layer in resident.layers.items():
            if any(variant is not None for variant in layer.lora_variant.values()):
                raise UnbatchableError(f"{name} has a LoRA variant that needs more than a scale")
            self.lora[name] = StackedLora(layer.get_base_layer(), resident.base.config.dropout)
        self.head: dict[str, StackedLinear | StackedLayerNorm] = {}
        for head in resident.base.head_modules:
            for name, module in resident.model.get_submodule(head).named_modules(prefix=head):
                if any(True for _ in module.parameters(recurse=False)):
                    self.head[name] = _stacked(name, module)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The stacked layers in the place of the model's own."""
        model = self.resident.model
        originals = {name: model.get_submodule(name) for name in (*self.lora, *self.head)}
        for name, module in (self.lora | self.head).items():
            module.train(True)
            _put(model, name, module)
        try:
            yield
        finally:
            for name, original in originals.items():
                _put(model, name, original)
            for module in (self.lora | self.head).values():  # a pass's parameters go with it
                for attribute in ("a", "b", "weight", "bias", "change"):
                    if hasattr(module, attribute):
                        setattr(module, attribute, None)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _stacked(name: str, module: nn.Module) -> StackedLinear | StackedLayerNorm:
    if type(module) is nn.Linear:
        return StackedLinear()
    if type(module) is nn.LayerNorm:
        return StackedLayerNorm(module.eps)
    raise UnbatchableError(f"{name} is a {type(module).__name__}, which has no form with parameters per client")


def _refuse_coupling(model: nn.Module) -> None:
    """Refuse modules in which one example's output depends on the others of its batch.

    Raises:
        UnbatchableError: with the module's name and kind.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UnbatchableError(f"{name} is a {kind}, which normalises over the examples of a batch")
        if "Router" in kind or "Experts" in kind or "MoE" in kind or "SparseMoe" in kind:
            raise UnbatchableError(f"{name} is a {kind}: experts may share a capacity between the examples of a batch")
