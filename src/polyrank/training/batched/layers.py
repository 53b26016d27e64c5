"""LoRA, linear and norm layers whose parameters have a leading axis of clients.

They see ``(clients, rows, ...)`` in a batch that holds the clients' examples one client after another, the same number
of rows each, and give each client its own parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class StackedLora(nn.Module):
    """A frozen layer and one low-rank update per client: ``base(x) + scale_k * (drop(x) @ a_k^T) @ b_k^T``.

    Attributes:
        a: ``(clients, rank, d_in)``.
        b: ``(clients, d_out, rank)``.
        scale: one for all clients, or ``(clients, 1, 1)``.
        change: the clients' base changes, ``(a, b)`` with the scale in b; a leading axis of 1 if all have the same.
    """

    def __init__(self, base: nn.Module, dropout: float) -> None:
        super().__init__()
        self.base, self.dropout = base, dropout
        self.a, self.b = torch.empty(0), torch.empty(0)
        self.scale: float | Tensor = 1.0
        self.change: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(clients * rows, ..., d_in)`` to ``(clients * rows, ..., d_out)``."""
        clients = len(self.a)
        shape = x.shape[:-1]
        x = x.reshape(clients, -1, x.shape[-1])
        y = self.base(x)
        dropped = x
        if self.dropout:  # the streams look for the examples in the first axis
            dropped = functional.dropout(x.view(*shape, -1), self.dropout, self.training).view(x.shape)
        y = _add_product(y, dropped, self.a, self.b * self.scale)
        if self.change is not None:
            a, b = self.change
            y = _add_product(y.view(len(a), -1, y.shape[-1]), x.view(len(a), -1, x.shape[-1]), a, b)
        return y.view(*shape, -1)


def _add_product(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``y + x a^T b^T`` for each client, written into y where that is possible; products in y's dtype.

    Shapes: y ``(clients, rows, d_out)``, x ``(clients, rows, d_in)``, a ``(clients, rank, d_in)``,
    b ``(clients, d_out, rank)``.
    """
    result: Tensor = _AddProduct.apply(y, x, a, b)  # type: ignore[no-untyped-call]
    return result


class _AddProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:  # Any: torch's context has no type
        x, a, b = x.to(y.dtype), a.to(y.dtype), b.to(y.dtype)
        hidden = _bmm(x, a.mT)
        ctx.save_for_backward(x, a, b, hidden)
        if y._is_view():  # written into, a view would be copied back and forth by autograd
            return torch.baddbmm(y, hidden, b.mT)
        ctx.mark_dirty(y)
        if len(y) == 1:
            y[0].addmm_(hidden[0], b[0].t())
            return y
        return y.baddbmm_(hidden, b.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, hidden = ctx.saved_tensors
        (grad,) = grads
        _, need_x, need_a, need_b = ctx.needs_input_grad
        inner = _bmm(grad, b) if need_x or need_a else None
        return (
            grad,
            _bmm(inner, a) if need_x and inner is not None else None,
            _bmm(inner.mT, x) if need_a and inner is not None else None,
            _bmm(grad.mT, hidden) if need_b else None,
        )


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    """A plain product is faster than a batch of one."""
    return torch.mm(left[0], right[0]).unsqueeze(0) if len(left) == 1 else torch.bmm(left, right)


class StackedLinear(nn.Module):
    """A linear layer with parameters per client: ``weight`` ``(clients, out, in)``, ``bias`` ``(clients, out)``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.empty(0)
        self.bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(clients * rows, ..., in)`` to ``(clients * rows, ..., out)``."""
        clients = len(self.weight)
        flat = x.reshape(clients, -1, x.shape[-1]).to(self.weight.dtype)
        y = torch.bmm(flat, self.weight.transpose(1, 2))
        if self.bias is not None:
            y = y + self.bias.unsqueeze(1)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class StackedLayerNorm(nn.Module):
    """A layer norm over the last axis with ``weight`` and ``bias`` ``(clients, features)``."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(clients * rows, ..., features)``, the same shape out."""
        y = functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        for own, combine in ((self.weight, torch.mul), (self.bias, torch.add)):
            if own is not None:
                y = combine(y.reshape(len(own), -1, y.shape[-1]), own.unsqueeze(1)).reshape(x.shape)
        return y
