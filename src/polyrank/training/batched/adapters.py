"""Several clients' adapters, padded to one rank: a row of numbers per client.

With both factors zero beyond a client's own rank, so are the gradients there, and AdamW leaves them zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from polyrank.core.adapter import Adapter, Factors, Part
from polyrank.training.batched.leaves import Layout, Leaves, Span
from polyrank.training.batched.stacked import StackedModel


class StackedAdapters:
    """The adapters of the clients of one pass.

    Args:
        model: where they go; used inside ``model.installed()``.
        adapters: one per client; names and shapes as the model's.
        changes: the clients' base changes, or None where a client has none.
        trains: the parts that are trained.

    Attributes:
        layout: of a client's numbers.
        rows: one flat parameter per client, for an optimiser.
        active: how many of them, the first ones, are in the layers.
        kind: of those: what their layers look like, numbers aside.
        changed: whether any has a base change.

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
        self.layout = _layout(model, adapters, trains)
        self._buffer, self._kept = self._filled(self.layout.trained), self._filled(self.layout.kept)
        self._changes = self._base_changes(changes)
        self.changed = bool(self._changes)
        self._gradient = torch.zeros_like(self._buffer)
        self.rows = [nn.Parameter(row) for row in self._buffer]
        own = [[adapter.modules[name].scale for adapter in adapters] for name in model.lora]
        self._scales = torch.tensor(own, dtype=self._buffer.dtype).view(len(own), -1, 1, 1)
        self.active = 0
        self.kind: Hashable = None

    def _filled(self, spans: Sequence[Span]) -> Tensor:
        """A buffer that holds these tensors of every client, zeros beyond its ranks."""
        resident = self.model.resident
        size = spans[-1].end if spans else 0
        buffer = _host(len(self.adapters), size, dtype=resident.adapter_dtype, device=resident.device).zero_()
        for span in spans:
            for own, adapter in zip(span.view(buffer), self.adapters, strict=True):
                value = span.of(adapter)
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

    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is trained and what is kept of the active clients, ``(clients, numbers)``, and their scales.

        Scales are ``(modules, clients, 1, 1)``, on the CPU.
        """
        return self._buffer[: self.active], self._kept[: self.active], self._scales[:, : self.active]

    def activate(self, clients: int) -> None:
        """Put the first so many adapters into the layers, as leaves of the next backward pass."""
        if clients != self.active:
            self.active, self.kind = clients, (self.layout, clients)
            self._still = self._kept[:clients].to(self._dtype)
            scales = {name: own[:clients] for name, own in zip(self.model.lora, self._scales, strict=True)}
            self._scale = {
                name: float(own[0]) if bool((own == own[0]).all()) else own.to(self._buffer.device)
                for name, own in scales.items()
            }
            for name, module in self.model.lora.items():
                change = self._changes.get(name)
                module.change = (
                    change if change is None or len(change[0]) == 1 else (change[0][:clients], change[1][:clients])
                )
        self._leaves = Leaves(self.layout, self._buffer[:clients].to(self._dtype), self._still, self._scale)
        self._beside: Tensor | None = None
        self.put()

    def put(self) -> None:
        """The active clients' leaves into the layers, after others were there."""
        self._leaves.put(self.model)

    def add(self, gradient: Tensor) -> None:
        """What was found elsewhere, ``(active, numbers)``, beside what a backward pass leaves at the leaves."""
        self._beside = gradient.clone() if self._beside is None else self._beside.add_(gradient)

    def collect(self) -> None:
        """After a step's passes: the gradients of the active clients into their rows; the others get none."""
        own, gradients = self._gradient[: self.active], [leaf.grad for leaf in self._leaves.tensors]
        if self._beside is None or any(gradient is not None for gradient in gradients):
            self._leaves.gather(gradients, own)
            if self._beside is not None:
                own.add_(self._beside)
        else:
            own.copy_(self._beside)
        for k, row in enumerate(self.rows):
            row.grad = self._gradient[k] if k < self.active else None

    def clip(self, most: float) -> None:
        """Scale each active client's gradient down to this norm, as `torch.nn.utils.clip_grad_norm_` does of one."""
        own = self._gradient[: self.active]
        norms = torch.linalg.vector_norm(own, dim=1, keepdim=True)
        own.mul_((most / (norms + 1e-6)).clamp(max=1.0))

    def where(self, parts: frozenset[Part]) -> Tensor:
        """Which numbers of a row are of these parts, ``(numbers,)``."""
        own = [(span, span.attribute if span.attribute in ("a", "b") else "head") for span in self.layout.trained]
        chosen = [torch.full((span.end - span.start,), part in parts) for span, part in own]
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
        values = {(span.module, span.attribute): span.view(row[None])[0] for span in self.layout.trained}

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


def _layout(model: StackedModel, adapters: Sequence[Adapter], trains: frozenset[Part]) -> Layout:
    """That of these adapters, at the highest of their ranks in each module."""
    first = adapters[0]
    spans: dict[bool, list[Span]] = {True: [], False: []}

    def add(module: str, attribute: str, part: Part, *shape: int) -> None:
        own = spans[part in trains]
        own.append(Span(module, attribute, shape, own[-1].end if own else 0))

    for name in model.lora:
        rank = max(adapter.modules[name].rank for adapter in adapters)
        add(name, "a", "a", rank, first.modules[name].d_in)
        add(name, "b", "b", first.modules[name].d_out, rank)
    for name in model.head:
        for attribute in ("weight", "bias"):
            tensor = first.dense.get(f"{name}.{attribute}")
            if tensor is not None:
                add(name, attribute, "head", *tensor.shape)
    return Layout(tuple(spans[True]), tuple(spans[False]))


def _same(one: Adapter | None, other: Adapter | None) -> bool:
    return one is other or (one is not None and other is not None and one.identical(other))


def _host(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the CPU that is copied to and from the device at full speed."""
    return torch.empty(*shape, dtype=dtype, pin_memory=device.type == "cuda")


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute
