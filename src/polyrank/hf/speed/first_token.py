"""The last layer for the first token only, where the head reads no other.

Keys and values are needed of every token; queries, the feed-forward part and their gradients of the first alone. In a
model of six layers that is about an eighth of the arithmetic, with the same result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def read_first_token(model: nn.Module) -> bool:
    """Let the last layer of a classifier compute its first token only, if it is known that the head reads no other.

    Known are BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and DistilBERT under their own classification heads. Where
    a configuration asks for more than logits, or for another way to compute them, all layers stay whole.

    Returns:
        whether it does so from now on.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    forward = _FORWARDS.get(kind) if type(model).__name__.endswith("ForSequenceClassification") else None
    if forward is None or any(getattr(config, key, None) for key in _WHOLE):
        return False
    backbone: Any = getattr(model, str(model.base_model_prefix))
    stack = backbone.transformer if kind == "distilbert" else backbone.encoder
    last: Any = next(reversed(stack.layer), None)
    if last is None or getattr(last, "gradient_checkpointing", False):
        return False
    last.forward = MethodType(forward, last)
    return True


def _bert(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_decoder: object, **options: Any
) -> Tensor:
    """A layer of BERT's family; what only its decoders are given is None here."""
    options = {name: value for name, value in options.items() if value is not None}
    own = self.attention.self
    first = hidden_states[:, :1].contiguous()
    states = (own.query(first), own.key(hidden_states), own.value(hidden_states))
    mixed = _attend(own, states, attention_mask, options)
    result: Tensor = self.feed_forward_chunk(self.attention.output(mixed, first))
    return result


def _distilbert(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    """A layer of DistilBERT."""
    own = self.attention
    first = hidden_states[:, :1].contiguous()
    states = (own.q_lin(first), own.k_lin(hidden_states), own.v_lin(hidden_states))
    mixed = self.sa_layer_norm(own.out_lin(_attend(own, states, attention_mask, options)) + first)
    result: Tensor = self.output_layer_norm(self.ffn(mixed) + mixed)
    return result


def _attend(module: Any, states: tuple[Tensor, ...], mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    """The configured attention with one query, ``(batch, 1, hidden)``."""
    split = [x.view(*x.shape[:-1], -1, module.attention_head_size).transpose(1, 2) for x in states]
    eager = sys.modules[type(module).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
    mask = mask if mask is None else mask[:, :, :1]
    dropout = module.dropout.p if module.training else 0.0
    mixed, _ = attend(module, *split, mask, dropout=dropout, scaling=module.scaling, **options)
    result: Tensor = mixed.reshape(len(mixed), 1, -1)
    return result


_WHOLE = (
    *("is_decoder", "add_cross_attention", "output_attentions", "output_hidden_states", "chunk_size_feed_forward"),
    *("pruned_heads", "torchscript", "gradient_checkpointing"),
)
"""Settings under which more than the first token's state of the last layer is asked for, or asked for otherwise."""

_FORWARDS: dict[str | None, Callable[..., Tensor]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _bert),
    "distilbert": _distilbert,
}
