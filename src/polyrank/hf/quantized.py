"""A frozen base whose linear layers hold their weights in 4 or 8 bits, and compute with what those stand for.

Nothing of a batch is quantised, so a layer is exactly that of the dequantised weights, and one example's result does
not depend on another's. bitsandbytes' own layers have the same numbers in them, as ``BitsAndBytesConfig`` makes them,
but on GPUs round activations to 8 bits and set outliers of a whole batch apart (LLM.int8()), and on CPUs pack weights
anew for inference, after which nothing is differentiated through them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from polyrank.core.errors import ModelError
from polyrank.hf.skeleton import META

Form = Literal["nf4", "int8"]
BLOCK = 64
"""Weights that share a scale in nf4. Source: Dettmers et al. 2023 (QLoRA), without its second quantisation."""


def require_bitsandbytes(form: str) -> None:
    """Refuse a quantised base where the package is missing.

    Raises:
        ModelError: it names the extra.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {form!r}, which needs bitsandbytes, and it is not installed: "
            "pip install 'polyrank[quantized]'"
        )


def quantize(model: nn.Module, form: Form, keep: Sequence[str], device: torch.device) -> int:
    """Replace every linear layer by a `QuantizedLinear`; embeddings and norms stay as they are.

    Args:
        model: frozen; changed in place.
        form: ``nf4`` (16 levels, a scale for every `BLOCK` weights) or ``int8`` (255 levels, a scale for every row).
        keep: names of the modules that stay, with all that is in them; the layer that gives words stays too.
        device: where a layer goes before its weights are rounded; on the meta device it needs no bitsandbytes.

    Returns:
        how many were replaced.

    Raises:
        ModelError: bitsandbytes is missing, or there is no such layer.
    """
    if device != META:
        require_bitsandbytes(form)
    find: Any = getattr(model, "get_output_embeddings", lambda: None)  # Any: a model's methods have no types
    words = find()
    names = [
        name
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D))
        and module is not words
        and not any(f"{name}.".startswith(f"{kept}.") for kept in keep)
    ]
    if not names:
        raise ModelError("model.quantization: the model has no linear layers to quantise")
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, QuantizedLinear(model.get_submodule(name), form, device))
    return len(names)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer with packed weights.

    Both products (forward, and the gradient of the input) unpack the weights for themselves; nothing is kept for the
    backward pass.

    Attributes:
        weight: packed: ``(blocks * BLOCK / 2, 1)`` in bytes of two, or ``(out, in)`` in int8; a buffer.
        scales: of blocks or rows, float32; a buffer.

    Args:
        layer: a linear layer or a `Conv1D`, whose weights are the other way round.
        form: as in `quantize`.
        device: where it will be.
    """

    def __init__(self, layer: nn.Module, form: Form, device: torch.device) -> None:
        weight: Tensor = layer.get_parameter("weight").detach()
        weight = (weight.T if isinstance(layer, Conv1D) else weight).to(device).contiguous()
        bias = layer._parameters.get("bias")
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.form, self.dtype = form, weight.dtype
        if bias is not None:
            self.register_parameter("bias", nn.Parameter(bias.detach().to(device), requires_grad=False))
        del self._parameters["weight"]
        packed, scales = _shapes(weight, form) if device == META else _packed(weight, form)
        self.register_buffer("weight", packed)
        self.scales: Tensor
        self.register_buffer("scales", scales)

    @property
    def count(self) -> int:
        """How many weights it has."""
        return self.out_features * self.in_features

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights and their scales."""
        return self.weight.nbytes + self.scales.nbytes

    def dense(self) -> Tensor:
        """The weights that the packed ones stand for, ``(out, in)``, in the dtype of the base."""
        from bitsandbytes import functional as kernels

        if self.form == "int8":
            eight: Tensor = kernels.int8_vectorwise_dequant(self.weight, self.scales)
            return eight.to(self.dtype)
        dtype = torch.float32 if self.dtype == torch.float64 else self.dtype
        state = kernels.QuantState(
            absmax=self.scales,
            shape=torch.Size((len(self.scales), BLOCK)),
            dtype=dtype,
            blocksize=BLOCK,
            quant_type="nf4",
        )
        four: Tensor = kernels.dequantize_4bit(self.weight, state).flatten()
        return four[: self.count].view(self.out_features, self.in_features).to(self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear's name
        """``(..., in)`` to ``(..., out)``, computed in the dtype of the base."""
        result: Tensor = _Product.apply(input.to(self.dtype), self)  # type: ignore[no-untyped-call]
        return result


def _packed(weight: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """What a layer holds of its weights, and their scales."""
    from bitsandbytes import functional as kernels

    if form == "int8":
        packed, scales, _ = kernels.int8_vectorwise_quant(weight.half())
        return packed, scales
    wide = (weight.float() if weight.dtype == torch.float64 else weight).flatten()
    # as rows of one block each: of others that are no multiple of it, kernels on CPUs unpack the wrong numbers
    blocks = functional.pad(wide, (0, -len(wide) % BLOCK)).view(-1, BLOCK)
    packed, state = kernels.quantize_4bit(blocks, blocksize=BLOCK, quant_type="nf4")
    return packed, state.absmax


def _shapes(weight: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The same without values."""
    if form == "int8":
        return weight.to(torch.int8), torch.empty(len(weight), device=META)
    blocks = -(-weight.numel() // BLOCK)
    return torch.empty(blocks * BLOCK // 2, 1, dtype=torch.uint8, device=META), torch.empty(blocks, device=META)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:  # Any: torch's context has no type
        ctx.layer = layer
        return functional.linear(x, layer.dense(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.dense(), None
