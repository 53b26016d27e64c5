"""Logits at chosen places only: of a decoder's output layer, which is as wide as the vocabulary, most is never read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from polyrank.core.errors import ModelError


def logits_at(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """A causal model's logits at some places of a batch, ``(places, words)``.

    The output layer is given the hidden states of these places alone. What an architecture does to its logits after
    that, such as a cap or a scale, is done as ever. Where a model computes its logits without the layer that it names
    as its output layer, all of them are computed and these are chosen.

    Args:
        model: of transformers, or one that has its ``get_output_embeddings``.
        input_ids: ``(rows, tokens)``.
        attention_mask: of the same shape.
        rows: int64, ``(places,)``: in which row each place is.
        places: int64, ``(places,)``: at which token.

    Raises:
        ModelError: the logits have another shape than expected.
    """
    named: Any = model  # Any: a model's methods have no types
    output = named.get_output_embeddings()
    if output is None:
        raise ModelError("it has no output layer, so it cannot write")

    def choose(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = given[0]
        if hidden.shape[:2] != input_ids.shape:
            return given
        return (hidden[rows, places][None], *given[1:])

    handle = output.register_forward_pre_hook(choose)
    try:
        logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
    finally:
        handle.remove()
    if logits.shape[:-1] == (1, len(rows)):
        return logits[0]
    if logits.shape[:-1] == input_ids.shape:
        return logits[rows, places]
    raise ModelError(f"its logits are {list(logits.shape)}")
