"""Dropout whose masks belong to the client: the same alone or beside others, with any padding, in any order.

torch's own generator on a CPU is serial; the streams here are faster as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from polyrank.core.errors import ModelError
from polyrank.training.streams import LEVELS, Stream


class UnbatchableError(ModelError):
    """Why clients cannot be trained in one pass; the message is for the user."""


def refuse_layer_drop(model: nn.Module) -> None:
    """Refuse models that leave out whole layers at random, which is one decision for all that is computed at a time.

    Raises:
        UnbatchableError: with the module's name.
    """
    for name, module in model.named_modules():
        share = getattr(module, "layerdrop", 0)
        if isinstance(share, int | float) and share > 0:
            raise UnbatchableError(f"{name or 'the model'} leaves out layers at random (its layerdrop is {share})")


class ClientDropout(TorchFunctionMode):
    """Inside it, ``torch.nn.functional.dropout`` and attention draw from the clients' streams.

    A pass holds ``rows`` rows per client, one client after another, of ``tokens`` tokens; a client's masks have the
    shape of its own batch and stand at its beginning, so what is padded around it changes nothing.

    Args:
        streams: one per client, in the order of their rows.
        rows: rows per client in the pass.
        tokens: tokens per row in the pass.
        alone: whether nothing else is computed in this process meanwhile, which would draw from the same generator
            where the model draws numbers in another way.

    Attributes:
        used: whether anything was drawn so far.
    """

    _here: ClassVar[threading.local] = threading.local()
    """``entered``: those that are entered in this thread, the innermost last."""

    def __init__(self, streams: Sequence[Stream], rows: int, tokens: int, *, alone: bool = True) -> None:
        super().__init__()
        self.streams, self.rows, self.tokens, self.alone = streams, rows, tokens, alone
        self.used = False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._entered().append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._entered().pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @classmethod
    def _entered(cls) -> list[ClientDropout]:
        found: list[ClientDropout] = cls._here.__dict__.setdefault("entered", [])
        return found

    @classmethod
    def recomputing(cls) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts for what is computed now and once more in the backward pass, with the same masks both times.

        torch restores its own generator there, of which these masks know nothing.
        """
        if not cls._entered():
            return nullcontext(), nullcontext()
        now = cls._entered()[-1]
        streams = [replace(one, bits=one.bits.copy()) for one in now.streams]
        return nullcontext(), cls(streams, now.rows, now.tokens, alone=now.alone)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # Any: torch's protocol for any of its functions
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and _dropout_p(args, kwargs) > 0:
            return self._attention(*args, **kwargs)
        shared = len(self.streams) > 1 or not self.alone
        if shared and func in _RANDOM:
            raise _drawn_elsewhere(func)
        result = func(*args, **kwargs)
        # a single number is a decision on a whole layer, which `refuse_layer_drop` has looked for
        if shared and func in _MAKING and result.numel() > 1:
            raise _drawn_elsewhere(func)
        return result

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002, ARG002
        if not training or p == 0:
            return input
        self.used = True
        threshold = round((1 - p) * LEVELS)
        if threshold == 0:
            return torch.zeros_like(input)
        result: Tensor = _Drop.apply(input, self._mask(input, threshold))  # type: ignore[no-untyped-call]
        return result

    def _mask(self, x: Tensor, threshold: int) -> Tensor:
        """What is added to 1 to give a mask: -1 where a value is dropped, scale - 1 where it is kept."""
        return _as_factor(self.kept(x, threshold), threshold, x)

    def kept(self, x: Tensor, threshold: int) -> Tensor:
        """Which values of x are kept, each with probability ``threshold / LEVELS``, in the shape of x.

        Raises:
            UnbatchableError: its first axis is not that of the examples.
        """
        if not self._whole and x.shape[0] != len(self.streams) * self.rows:
            raise UnbatchableError(
                f"the model drops values of a tensor of shape {tuple(x.shape)}, whose rows are not examples"
            )
        keep = (torch.empty if self._whole else torch.ones)(x.shape, dtype=torch.bool, device=x.device)
        self.draw(keep, threshold)
        return keep

    @property
    def _whole(self) -> bool:
        """Whether all of the pass is one client's own."""
        first = self.streams[0]
        return len(self.streams) == 1 and (first.rows, first.tokens) == (self.rows, self.tokens)

    def draw(self, keep: Tensor, threshold: int) -> None:
        """Fill what is the clients' own; what is padded stays as it is."""
        if self._whole:
            self.streams[0].bits.draw(keep, threshold)
            return
        where = (1,) if keep.ndim == 3 else (2, 3) if keep.ndim == 4 else ()
        padded = [axis for axis in where if keep.shape[axis] == self.tokens]
        for k, one in enumerate(self.streams):
            own = keep[k * self.rows : k * self.rows + one.rows]
            for axis in padded:
                own = own.narrow(axis, 0, one.tokens)
            one.bits.draw(own, threshold)

    def _attention(  # noqa: PLR0917  # torch's signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The definition of scaled dot product attention, since no fused kernel takes a mask of dropout.

        What may look at nothing, as padding far from a text with a window of attention, gets zeros, as from torch's.
        """
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        weights = (query @ key.transpose(-2, -1)) * (scale if scale is not None else query.shape[-1] ** -0.5)
        if is_causal:
            seen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
            weights = weights.masked_fill(~seen, float("-inf"))
        blind: Tensor | None = None
        if attn_mask is not None:
            allowed = attn_mask.dtype == torch.bool
            blind = ~(attn_mask if allowed else attn_mask > float("-inf")).any(dim=-1, keepdim=True)
            weights = (
                weights.masked_fill(~(attn_mask | blind), float("-inf"))
                if allowed
                else weights + attn_mask.masked_fill(blind, 0.0)
            )
        mixed = self._dropout(weights.softmax(dim=-1).to(value.dtype), dropout_p) @ value
        return mixed if blind is None else mixed.masked_fill(blind, 0.0)


class _Drop(torch.autograd.Function):
    """``x * (1 + mask)``: one fused kernel each way, and exactly 0 where the mask is -1.

    A scale such as 1.111 does not fit bfloat16 (it would be 1.1094, in every layer); 0.111 fits to 0.02 %.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:  # Any: torch's context has no type
        ctx.save_for_backward(mask)
        return torch.addcmul(x, x, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.addcmul(grads[0], grads[0], mask), None


def _as_factor(keep: Tensor, threshold: int, like: Tensor) -> Tensor:
    """``LEVELS / threshold - 1`` where a value is kept, -1 elsewhere, rounded once, in the dtype of ``like``."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    kept = keep.view(torch.uint8).to(wide)  # booleans are converted several times slower than bytes
    return (kept - 1).add_(kept, alpha=LEVELS / threshold - 1).to(like.dtype)


def _drawn_elsewhere(func: Callable[..., Any]) -> UnbatchableError:
    return UnbatchableError(f"the model draws random numbers by {func.__name__}, which no client's stream can give")


def _dropout_p(args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))


_RANDOM: frozenset[Callable[..., Any]] = frozenset(
    {
        *(
            functional.alpha_dropout,
            functional.feature_alpha_dropout,
            functional.dropout1d,
            functional.dropout2d,
            functional.dropout3d,
            torch.dropout,
        ),
        *(torch.bernoulli, torch.Tensor.bernoulli, torch.Tensor.bernoulli_, torch.rand_like, torch.randn_like),
        *(torch.Tensor.uniform_, torch.Tensor.normal_, functional.gumbel_softmax, torch.multinomial),
    }
)
_MAKING: frozenset[Callable[..., Any]] = frozenset(
    {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal}
)
"""What makes tensors of random numbers."""
