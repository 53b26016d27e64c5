"""One resident base model for all clients: adapters are copied in and out, the base is never reloaded nor copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from polyrank.core.adapter import PARTS, Adapter, Factors, Part
from polyrank.core.errors import AdapterError, ModelError
from polyrank.core.seeds import torch_generator
from polyrank.hf.files import quiet
from polyrank.hf.load import BaseModel
from polyrank.hf.mean_pool import MeanPoolClassifier
from polyrank.hf.quantized import quantize
from polyrank.hf.speed.first_token import read_first_token
from polyrank.hf.speed.packed_linear import pack
from polyrank.hf.targets import adapt, targeted

SLOT = "polyrank"
"""The name under which PEFT knows the one adapter that is installed at a time."""
BASE_SLOT = "polyrank_base_change"
"""The frozen update beside it, where there is one."""


class ResidentModel:
    """A base model with room for one adapter of any rank, quantised where its configuration says so.

    Args:
        base: as `load_base` gives it, not quantised; its model is changed in place.
        device: where it computes; on the meta device it has names and shapes, and its adapters are there too.

    Attributes:
        dtype: of the base.
        adapter_dtype: of what is trained: float32, or float64 over a float64 base.

    Raises:
        ModelError: the targets name no module of the model that can be adapted, or it cannot be quantised.
    """

    def __init__(self, base: BaseModel, device: torch.device | None = None) -> None:
        self.base = base
        self.model = base.model
        self.device = device or torch.device("cpu")
        if base.config.quantization != "none":
            quantize(self.model, base.config.quantization, base.head_modules, self.device)
        self.model.to(self.device)
        self.dtype = next(p.dtype for p in self.model.parameters())
        self.adapter_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        names = targeted(base, self._transformer.config.model_type)
        self._layers = adapt(self.model, names, SLOT, lora_dropout=base.config.dropout)
        self._dense = {
            f"{module}.{name}": parameter
            for module in base.head_modules
            for name, parameter in self.model.get_submodule(module).named_parameters()
        }
        self._home = torch.device("meta" if self.device.type == "meta" else "cpu")  # of adapters
        self._loaded = {name: parameter.detach().to(self._home, copy=True) for name, parameter in self._dense.items()}
        for parameter in self._dense.values():
            parameter.requires_grad_()
        pack(self.model)
        read_first_token(self.model)

    @property
    def layers(self) -> dict[str, LoraLayer]:
        """The adapted modules."""
        return dict(self._layers)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """``(d_out, d_in)`` of every adapted module."""
        return {name: (layer.out_features, layer.in_features) for name, layer in self._layers.items()}

    def check_rank(self, rank: int) -> None:
        """Refuse a rank that a module cannot have.

        Raises:
            ModelError: the rank is above the smaller side of a layer; the layer is named.
        """
        for name, (d_out, d_in) in self.shapes.items():
            if rank > min(d_out, d_in):
                raise ModelError(
                    f"rank {rank} is above the size of the layer {name} ({d_out} x {d_in}); "
                    f"expected at most {min(d_out, d_in)}"
                )

    def check_tokens(self, largest: int) -> None:
        """Refuse tokens that the model has no embedding for, before a kernel does so without a word on which.

        Raises:
            ModelError: there are fewer embeddings; both numbers are named.
        """
        count = self.words
        if count and largest >= count:
            raise ModelError(
                f"the tokenizer of {self.base.config.name} made token {largest} of the data, but the model has "
                f"{count} embeddings; take the tokenizer that the model was trained with"
            )

    @property
    def words(self) -> int:
        """How many tokens have an embedding; 0 where the model does not say."""
        find: Any = self.base.model.get_input_embeddings  # Any: a model's methods have no types
        return int(getattr(find(), "num_embeddings", 0))

    def initial(self, rank: int, scale: float, seed: int) -> Adapter:
        """The adapter before the first round: A Kaiming-uniform from ``seed``, B zero, the head as it was loaded.

        Raises:
            ModelError: as `check_rank`.
        """
        self.check_rank(rank)
        modules = {}
        for name, (d_out, d_in) in self.shapes.items():
            a = torch.empty(rank, d_in, device=self._home)
            nn.init.kaiming_uniform_(a, a=5**0.5, generator=torch_generator(seed, "adapter", name))
            modules[name] = Factors(a, torch.zeros(d_out, rank, device=self._home), scale)
        return Adapter(modules, {name: tensor.clone() for name, tensor in self._loaded.items()})

    def install(self, adapter: Adapter, base_change: Adapter | None = None) -> None:
        """Copy an adapter in; whatever was installed before is gone. Adapters are held in ``adapter_dtype``.

        Args:
            adapter: what is trained.
            base_change: a frozen update of some or all of the same modules, added beside it.

        Raises:
            AdapterError: a tensor is missing, unknown or of the wrong shape; all of them are named, nothing changed.
        """
        self.check(adapter)
        self._install_base_change(base_change)
        for name, layer in self._layers.items():
            factors = adapter.modules[name]
            _set_weight(layer.lora_A[SLOT], factors.a.to(self.adapter_dtype))
            _set_weight(layer.lora_B[SLOT], factors.b.to(self.adapter_dtype))
            layer.r[SLOT] = factors.rank
            layer.scaling[SLOT] = factors.scale
        with torch.no_grad():
            for name, parameter in self._dense.items():
                parameter.copy_(adapter.dense[name])
                parameter.grad = None

    def _install_base_change(self, change: Adapter | None) -> None:
        if change is not None:
            unknown = sorted(change.modules.keys() - self._layers.keys())
            shapes = self.shapes
            unknown += [n for n, f in change.modules.items() if n in shapes and (f.d_out, f.d_in) != shapes[n]]
            if unknown or change.dense:
                names = ", ".join([*unknown, *change.dense])
                raise AdapterError(f"the base change does not fit {self.base.config.name}: {names}")
        active = [SLOT] if change is None else [SLOT, BASE_SLOT]
        if change is not None and not any(BASE_SLOT in layer.lora_A for layer in self._layers.values()):
            adapt(self.model, list(self._layers), BASE_SLOT, inference_mode=True)
        for name, layer in self._layers.items():
            if change is not None:
                d_out, d_in = layer.out_features, layer.in_features
                nothing = Factors(torch.zeros(1, d_in), torch.zeros(d_out, 1))
                factors = change.modules.get(name, nothing)
                for linear, value in ((layer.lora_A[BASE_SLOT], factors.a), (layer.lora_B[BASE_SLOT], factors.b)):
                    frozen = value.detach().to(self.device, self.adapter_dtype, copy=True)
                    linear.weight = nn.Parameter(frozen, requires_grad=False)
                layer.scaling[BASE_SLOT] = factors.scale
            if list(layer.active_adapters) != active:
                layer.set_adapter(active, inference_mode=True)

    def check(self, adapter: Adapter) -> None:
        """Refuse an adapter that does not fit the model.

        Raises:
            AdapterError: a tensor is missing, unknown or of the wrong shape; all of them are named.
        """
        expected = {*self._layers, *self._dense}
        sent = {*adapter.modules, *adapter.dense}
        problems = [f"{name} is missing" for name in sorted(expected - sent)]
        problems += [f"{name} is not part of the model" for name in sorted(sent - expected)]
        for name, shape in self.shapes.items():
            factors = adapter.modules.get(name)
            if factors is not None and (factors.d_out, factors.d_in) != shape:
                problems.append(f"{name} is for {factors.d_out} x {factors.d_in}, the layer is {shape[0]} x {shape[1]}")
        for name, parameter in self._dense.items():
            tensor = adapter.dense.get(name)
            if tensor is not None and tensor.shape != parameter.shape:
                problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}")
        if problems:
            raise AdapterError(f"the adapter does not fit {self.base.config.name}: {'; '.join(problems)}")

    def extract(self) -> Adapter:
        """A copy of what is installed, on the CPU, in ``adapter_dtype``."""

        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", self.adapter_dtype, copy=True)

        modules = {
            name: Factors(copy(layer.lora_A[SLOT].weight), copy(layer.lora_B[SLOT].weight), float(layer.scaling[SLOT]))
            for name, layer in self._layers.items()
        }
        return Adapter(modules, {name: copy(parameter) for name, parameter in self._dense.items()})

    def trainable(self, parts: frozenset[Part] = PARTS) -> list[nn.Parameter]:
        """The parameters that are trained, of these parts; nothing else gets a gradient."""
        for parameter in self.of_parts(PARTS):
            parameter.requires_grad_(False)
        chosen = self.of_parts(parts)
        for parameter in chosen:
            parameter.requires_grad_()
        return chosen

    def of_parts(self, parts: frozenset[Part]) -> list[nn.Parameter]:
        """The parameters of these parts: layer by layer A, then B, and the dense ones at the end."""
        layers = self._layers.values()
        pairs = [pair for own in layers for pair in (("a", own.lora_A[SLOT]), ("b", own.lora_B[SLOT]))]
        return [linear.weight for part, linear in pairs if part in parts] + [
            *(self._dense.values() if "head" in parts else ())
        ]

    def tails(self, kept: int) -> list[tuple[Tensor, Tensor]]:
        """The last rank indices of every module, ``(A[kept:], B[:, kept:])``, as views."""
        return [
            (layer.lora_A[SLOT].weight[kept:], layer.lora_B[SLOT].weight[:, kept:]) for layer in self._layers.values()
        ]

    @property
    def _transformer(self) -> PreTrainedModel:
        return self.model.encoder if isinstance(self.model, MeanPoolClassifier) else self.model

    @property
    def attention(self) -> str:
        """How it attends: ``eager`` or ``sdpa``."""
        return str(self._transformer.config._attn_implementation)

    def set_attention(self, implementation: str) -> bool:
        """Switch to ``eager`` or ``sdpa`` attention; False where the architecture lacks it."""
        try:
            with quiet():
                self._transformer.set_attn_implementation(implementation)
        except (ValueError, ImportError):
            return False
        return self.attention == implementation  # where it cannot switch, it only warns

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Mixed precision where the base is not float32: operations in the base's dtype, adapters in float32."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            yield


def _set_weight(linear: nn.Linear, value: Tensor) -> None:
    """Give a factor's layer new weights of any rank; in place where the rank is the same."""
    weight = linear.weight
    if weight.shape == value.shape and weight.dtype == value.dtype:
        with torch.no_grad():
            weight.copy_(value)
        weight.grad = None
    else:
        linear.weight = nn.Parameter(value.detach().to(weight.device, copy=True))
