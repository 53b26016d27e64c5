"""Where the tensors of a client lie in its row of numbers, and the views of them that layers compute with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyrank.core.adapter import Adapter
from polyrank.training.batched.stacked import StackedModel


@dataclass(frozen=True)
class Span:
    """Where one tensor of a client lies in its row of a buffer.

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

    @property
    def end(self) -> int:
        """One after its last number."""
        return self.start + torch.Size(self.shape).numel()

    def view(self, buffer: Tensor) -> Tensor:
        """``(clients, *shape)`` of a buffer ``(clients, numbers)``."""
        return buffer[:, self.start : self.end].view(len(buffer), *self.shape)

    def of(self, adapter: Adapter) -> Tensor:
        """An adapter's own tensor, at its own rank."""
        if self.attribute in ("a", "b"):
            value: Tensor = getattr(adapter.modules[self.module], self.attribute)
            return value
        return adapter.dense[f"{self.module}.{self.attribute}"]


@dataclass(frozen=True)
class Layout:
    """Which tensors make up a client's two rows: of what is trained, and of what stays as it is."""

    trained: tuple[Span, ...]
    kept: tuple[Span, ...]


class Leaves:
    """Values of some clients in the layers of a model, of which a backward pass finds the gradients.

    Args:
        layout: where each tensor lies.
        trained: ``(clients, numbers)``, in the dtype in which layers compute.
        kept: likewise.
        scales: of each adapted module: one for all clients, or ``(clients, 1, 1)``.

    Attributes:
        tensors: those of ``layout.trained``.
    """

    def __init__(self, layout: Layout, trained: Tensor, kept: Tensor, scales: Mapping[str, float | Tensor]) -> None:
        self._layout, self._scales = layout, scales
        self.tensors = [span.view(trained).detach().requires_grad_() for span in layout.trained]
        self._kept = [span.view(kept) for span in layout.kept]

    def put(self, model: StackedModel) -> None:
        """Into the layers; what was there before is not computed with any more."""
        layers: dict[str, nn.Module] = {**model.lora, **model.head}
        for spans, tensors in ((self._layout.trained, self.tensors), (self._layout.kept, self._kept)):
            for span, tensor in zip(spans, tensors, strict=True):
                setattr(layers[span.module], span.attribute, tensor)
        for name, scale in self._scales.items():
            model.lora[name].scale = scale

    def gather(self, gradients: Iterable[Tensor | None], into: Tensor) -> None:
        """The tensors' gradients at their places in ``(clients, numbers)``; zero where there is none."""
        for span, gradient in zip(self._layout.trained, gradients, strict=True):
            target = span.view(into)
            if gradient is None:
                target.zero_()
            else:
                target.copy_(gradient)
