"""Layers that keep only what goes into them, and are computed once more on the way back: memory for time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from polyrank.core.errors import ModelError

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
"""What a layer is computed in, and what it is computed in once more, asked for at each call of a layer."""


def repeated_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that transformers marks as such, with their names; of nested ones the outermost.

    Raises:
        ModelError: the architecture has none.
    """
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found[-1:])
        if isinstance(module, GradientCheckpointingLayer) and not inside:
            found.append((name, module))
    if not found:
        kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
        raise ModelError(
            f"training.gradient_checkpointing: a {kind} model has no layers that transformers could recompute; leave "
            "it out, or set training.accumulate to compute a step in smaller parts"
        )
    return found


@contextmanager
def recomputed(model: nn.Module, contexts: Contexts, *, whole: int = 0) -> Iterator[None]:
    """Inside it a forward pass keeps the layers' inputs, and the backward pass computes each layer once more.

    transformers' own switch takes the layer's class for what to compute; here it is what the layer really does, of
    which the last one may be another (`polyrank.hf.speed.first_token`). No input needs a gradient for it.

    Args:
        model: in training mode.
        contexts: for random numbers, which have to be the same both times.
        whole: so many of the last layers are left as they are.

    Raises:
        ModelError: as `repeated_layers`.
    """
    layers = [layer for _, layer in repeated_layers(model)]
    chosen: list[Any] = layers[: len(layers) - whole]  # Any: a forward of one's own is no attribute that torch declares
    before = [layer.__dict__.get("forward") for layer in chosen]
    for layer in chosen:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer, own in zip(chosen, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own
