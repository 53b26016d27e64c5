"""Frozen linear layers in bfloat16 on a CPU: packed once in the form that the kernel wants, bias added in the kernel.

torch's own path for such a layer writes the expanded bias to memory first and reorders the weight at each call. The
operators are those that torch's compiler emits; where a build lacks them, layers stay as they are.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

_PACKING = Lock()
"""Held while a weight is packed, so that threads that share a layer don't each do it."""


def pack(model: nn.Module) -> int:
    """Make every frozen ``nn.Linear`` in bfloat16 on a CPU a `PackedLinear`; names and weights stay.

    Returns:
        how many were made so.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):  # type: ignore[no-untyped-call]
        return 0
    count = 0
    for module in model.modules():
        if type(module) is nn.Linear and _fits(module):
            module.__class__ = PackedLinear
            count += 1
    return count


def _fits(module: nn.Linear) -> bool:
    weight = module.weight
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not weight.requires_grad


class PackedLinear(nn.Linear):
    """A frozen linear layer whose two products (forward, and the gradient of its input) use packed weights.

    Packing is done at the first use in each direction and doubles the layer's memory for each.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear's name
        """``(..., in)`` in bfloat16 to ``(..., out)``; another dtype takes torch's own path."""
        if input.dtype != torch.bfloat16 or input.numel() == 0:
            return super().forward(input)
        result: Tensor = _PackedProduct.apply(input, self)  # type: ignore[no-untyped-call]
        return result

    def packed(self, *, transposed: bool) -> Tensor:
        """The weight as the kernel wants it, ``(out, in)`` or ``(in, out)``."""
        forms: dict[bool, Tensor] = self.__dict__.setdefault("_packed", {})
        if transposed not in forms:
            with _PACKING:
                if transposed not in forms:
                    weight = self.weight.t().contiguous() if transposed else self.weight
                    forms[transposed] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        return forms[transposed]

    def share(self, other: PackedLinear) -> None:
        """Have one set of packed forms with another layer of the same weight, whichever of the two packs them."""
        self.__dict__["_packed"] = other.__dict__.setdefault("_packed", {})

    def __getstate__(self) -> dict[str, Any]:  # Any: nn.Module's state
        """The state without the packed forms: they cannot be pickled, and are made again where they are needed."""
        state: dict[str, Any] = self.__dict__.copy()
        state.pop("_packed", None)
        return state


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:  # Any: torch's context has no type
        ctx.layer = layer
        return _product(x, layer.packed(transposed=False), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _product(grads[0], ctx.layer.packed(transposed=True), None), None


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return y
