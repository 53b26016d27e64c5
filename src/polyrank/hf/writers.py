"""Models that write: a decoder under its own output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError
from polyrank.hf.files import explained, resolve_name
from polyrank.hf.settings import saved_settings
from polyrank.hf.skeleton import from_checkpoint


def load_writer(path: str, common: dict[str, Any], head: str, tokenizer: Any) -> nn.Module:  # Any: transformers' own
    """A causal model, whole.

    Args:
        path: of the checkpoint.
        common: arguments of `from_pretrained`, the configuration among them.
        head: as ``model.head`` has it.
        tokenizer: the model's; None for names and shapes alone.

    Raises:
        ModelError: it is no decoder, or sees what comes next; it lacks a tensor; its tokenizer has more tokens than it
            has embeddings; a head was asked for.
    """
    settings = common["config"]
    if head == "mean-pool":
        raise ModelError(
            "model.head is mean-pool, a head of classifiers; a model that writes has its own: leave it out"
        )
    check_decoder(settings)
    model, info = from_checkpoint(AutoModelForCausalLM, path, common)
    lacking = sorted({*info["missing_keys"]} & {name for name, _ in model.named_parameters()})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(f"the checkpoint has no {lacking[0]}{more}: it was saved without what writes; {_EXPECTED}")
    if tokenizer is None:
        return model  # type: ignore[no-any-return]  # as below
    words = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values())
    if largest >= words:
        raise ModelError(
            f"its tokenizer has the token {tokenizer.convert_ids_to_tokens(largest)!r} with the number {largest}, and "
            f"the model has {words} embeddings; take the tokenizer that it was trained with"
        )
    if _looks_ahead(model, words):
        raise ModelError(f"a {settings.model_type} sees the words that it should predict, as encoders do; {_EXPECTED}")
    return model  # type: ignore[no-any-return]  # transformers is untyped


def check_decoder(settings: Any) -> None:  # Any: every architecture has its own class
    """Refuse what writes no text by its configuration alone: encoders, and encoders with a decoder.

    An encoder that transformers would also run as a decoder is one that is trained on masked words, as long as its
    configuration does not say ``is_decoder``.

    Raises:
        ModelError: says what it is.
    """
    kind = settings.model_type
    if settings.is_encoder_decoder:
        raise ModelError(f"a {kind} is an encoder with a decoder; {_EXPECTED}")
    if type(settings) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"a {kind} is no decoder; {_EXPECTED}")
    causal = getattr(settings, "is_decoder", False) or getattr(settings, "causal", False)
    if type(settings) in AutoModelForMaskedLM._model_mapping and not causal:
        raise ModelError(f"a {kind} is an encoder; {_EXPECTED}")


def check_writer(config: ModelConfig) -> None:
    """`check_decoder` of a checkpoint, of which no weights are read.

    Raises:
        ModelError: as `check_decoder`; or it cannot be loaded.
    """
    path = resolve_name(config.name)
    with explained(config.name, "writing"):
        check_decoder(saved_settings(path, config))


_EXPECTED = "expected a decoder, such as a Llama, Qwen, Gemma, Mistral or GPT-2, for the task causal-lm"


@torch.inference_mode()
def _looks_ahead(model: Any, words: int) -> bool:  # Any: transformers' own
    """Whether what a model says at a place depends on what comes after it: tried on a few tokens."""
    model.eval()
    ids = (torch.arange(2 * 6).view(2, 6) * 7 + 3) % words
    ids[1] = ids[0]
    ids[1, -1] = (ids[0, -1] + 1) % words
    ids = ids.to(next(model.parameters()).device)
    first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].float()
    return not torch.allclose(first, second, rtol=1e-2, atol=1e-2 * float(first.abs().max()))
