"""Several clients' adapters over one base, in layers whose parameters have a leading axis of clients.

A batch holds the clients' examples one client after another, the same number of rows each. The frozen layers see it as
any batch. Ranks are padded with zeros up to the highest: with both factors zero there, so are the gradients, and AdamW
leaves them zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyrank.core.adapter import Adapter, Factors, Part
from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.layers import StackedLayerNorm, StackedLinear, StackedLora
from polyrank.training.dropout import UnbatchableError, refuse_layer_drop


@dataclass(frozen=True)
class Span:
    """Where one tensor of a client lies in its row of the buffer.

    Args:
        module: the layer's name.
        attribute: of the stacked layer.
        shape: of one client's tensor, at the pass's rank.
        start: first number.
    """

    module: str
    attribute: str
    shape: tuple[int, ...]
    start: int

    def view(self, buffer: Tensor) -> Tensor:
        """``(clients, *shape)`` of a buffer ``(clients, numbers)``."""
        end = self.start + torch.Size(self.shape).numel()
        return buffer[:, self.start : end].view(len(buffer), *self.shape)


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


class StackedAdapters:
    """The adapters of the clients of one pass: one row of numbers per client, and views of them in the layers.

    Args:
        model: where they go; used inside ``model.installed()``.
        adapters: one per client; names and shapes as the model's.
        changes: the clients' base changes, or None where a client has none.
        trains: the parts that are trained.

    Attributes:
        rows: one flat parameter per client, for an optimiser.

    Raises:
        AdapterError: an adapter does not fit the model.
    """

    def __init__(
        self,
        model: StackedModel,
        adapters: Sequence[Adapter],
        changes: Sequence[Adapter | None],
        trains: frozenset[Part],
    ) -> None:
        self.model, self.adapters = model, adapters
        resident = model.resident
        for adapter in adapters:
            resident.check(adapter)
        self._dtype = resident.dtype  # in which layers compute; the numbers themselves are in adapter_dtype
        trained, kept = self._spans(trains)
        self._trained = trained
        self._buffer = self._filled(trained)
        self._untrained = [(span, self._filled([span])) for span in kept]
        self._changes = self._base_changes(changes)
        self._gradient = torch.zeros_like(self._buffer)
        self.rows = [nn.Parameter(row) for row in self._buffer]
        self._leaves: list[Tensor] = []
        self._active = 0

    def _spans(self, trains: frozenset[Part]) -> tuple[list[Span], list[Span]]:
        first = self.adapters[0]
        shapes: list[tuple[str, str, str, tuple[int, ...]]] = []
        for name in self.model.lora:
            rank = max(adapter.modules[name].rank for adapter in self.adapters)
            factors = first.modules[name]
            shapes += [(name, "a", "a", (rank, factors.d_in)), (name, "b", "b", (factors.d_out, rank))]
        for name in self.model.head:
            for attribute in ("weight", "bias"):
                tensor = first.dense.get(f"{name}.{attribute}")
                if tensor is not None:
                    shapes.append((name, attribute, "head", tuple(tensor.shape)))
        trained, kept, start = [], [], 0
        for name, attribute, part, shape in shapes:
            if part in trains:
                trained.append(Span(name, attribute, shape, start))
                start += torch.Size(shape).numel()
            else:
                kept.append(Span(name, attribute, shape, 0))
        return trained, kept

    def _value(self, adapter: Adapter, span: Span) -> Tensor:
        if span.attribute in ("a", "b"):
            value: Tensor = getattr(adapter.modules[span.module], span.attribute)
            return value
        return adapter.dense[f"{span.module}.{span.attribute}"]

    def _filled(self, spans: Sequence[Span]) -> Tensor:
        """A buffer that holds these tensors of every client, zeros beyond its ranks."""
        size = sum(torch.Size(span.shape).numel() for span in spans)
        resident = self.model.resident
        buffer = _host(len(self.adapters), size, dtype=resident.adapter_dtype, device=resident.device).zero_()
        for span in spans:
            for own, adapter in zip(span.view(buffer), self.adapters, strict=True):
                value = self._value(adapter, span)
                own[tuple(slice(n) for n in value.shape)] = value
        return buffer.to(resident.device)  # one copy for all

    def _base_changes(self, changes: Sequence[Adapter | None]) -> dict[str, tuple[Tensor, Tensor]]:
        if all(change is None for change in changes):
            return {}
        same = all(_same(change, changes[0]) for change in changes)  # by value: each may have come as a copy of its own
        own = changes[:1] if same else changes
        device = self.model.resident.device
        stacked = {}
        for name in self.model.lora:
            factors = [change.modules.get(name) if change else None for change in own]
            rank = max((f.rank for f in factors if f is not None), default=0)
            if rank == 0:
                continue
            shape = self.model.resident.shapes[name]
            a, b = torch.zeros(len(own), rank, shape[1]), torch.zeros(len(own), shape[0], rank)
            for k, one in enumerate(factors):
                if one is not None:
                    a[k, : one.rank], b[k, :, : one.rank] = one.a, one.b * one.scale
            stacked[name] = a.to(device, self._dtype), b.to(device, self._dtype)
        return stacked

    def activate(self, clients: int) -> None:
        """Put the first ``clients`` adapters into the layers, as leaves of the next backward pass."""
        values = self._buffer[:clients].to(self._dtype) if self._dtype != self._buffer.dtype else self._buffer[:clients]
        self._leaves = []
        for span in self._trained:
            leaf = span.view(values).detach().requires_grad_()
            self._leaves.append(leaf)
            self._set(span, leaf)
        if clients == self._active:
            return
        self._active = clients
        for span, buffer in self._untrained:
            self._set(span, span.view(buffer[:clients]).to(self._dtype))
        for name, module in self.model.lora.items():
            scales = [adapter.modules[name].scale for adapter in self.adapters[:clients]]
            module.scale = scales[0]
            if len(set(scales)) > 1:
                wide = torch.tensor(scales, dtype=self._buffer.dtype, device=self._buffer.device)
                module.scale = wide.view(-1, 1, 1)
            change = self._changes.get(name)
            module.change = (
                change if change is None or len(change[0]) == 1 else (change[0][:clients], change[1][:clients])
            )

    def _set(self, span: Span, tensor: Tensor) -> None:
        layers: dict[str, nn.Module] = {**self.model.lora, **self.model.head}
        setattr(layers[span.module], span.attribute, tensor)

    def collect(self) -> None:
        """After a backward pass: the gradients of the active clients into their rows; the others get none."""
        for span, leaf in zip(self._trained, self._leaves, strict=True):
            target = span.view(self._gradient[: self._active])
            if leaf.grad is None:
                target.zero_()
            else:
                target.copy_(leaf.grad)
        for k, row in enumerate(self.rows):
            row.grad = self._gradient[k] if k < self._active else None

    def where(self, parts: frozenset[Part]) -> Tensor:
        """Which numbers of a row are of these parts, ``(numbers,)``."""
        own = [(span, span.attribute if span.attribute in ("a", "b") else "head") for span in self._trained]
        chosen = [torch.full((torch.Size(span.shape).numel(),), part in parts) for span, part in own]
        return torch.cat(chosen).to(self._buffer.device)

    def tails(self, client: int, kept: int) -> list[tuple[Tensor, Tensor]]:
        """The last rank indices of every module of one client, ``(A[kept:rank], B[:, kept:rank])``, differentiable."""
        tails = []
        for name, module in self.model.lora.items():
            rank = self.adapters[client].modules[name].rank
            tails.append((module.a[client, kept:rank], module.b[client, :, kept:rank]))
        return tails

    def extract(self) -> list[Adapter]:
        """A copy of every client's adapter at its own ranks, on the CPU, in ``adapter_dtype``."""
        host = _host(*self._buffer.shape, dtype=self._buffer.dtype, device=self._buffer.device)
        host.copy_(self._buffer)  # one copy for all
        return [self._extract(start, host[client]) for client, start in enumerate(self.adapters)]

    def _extract(self, start: Adapter, row: Tensor) -> Adapter:
        values = {(span.module, span.attribute): span.view(row[None])[0] for span in self._trained}

        def copy(name: str, attribute: str, original: Tensor) -> Tensor:
            tensor = values.get((name, attribute), original)
            own = tensor[tuple(slice(n) for n in original.shape)]
            return own.detach().to("cpu", row.dtype, copy=True)

        modules = {
            name: Factors(copy(name, "a", factors.a), copy(name, "b", factors.b), factors.scale)
            for name, factors in start.modules.items()
        }
        dense = {name: copy(*_split(name), tensor) for name, tensor in start.dense.items()}
        return Adapter(modules, dense)


def _same(one: Adapter | None, other: Adapter | None) -> bool:
    return one is other or (one is not None and other is not None and one.identical(other))


def _host(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the CPU that is copied to and from the device at full speed."""
    return torch.empty(*shape, dtype=dtype, pin_memory=device.type == "cuda")


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute


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
