"""A checkpoint's configuration, as it was saved and as PolyRank computes with it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError, did_you_mean
from polyrank.hf.files import origin, resolve_name

LOGITS_ONLY = {
    **{"return_dict": True, "use_cache": False, "output_attentions": False, "output_hidden_states": False},
    **{"torchscript": False, "gradient_checkpointing": False, "chunk_size_feed_forward": 0},
}
"""What says only in which form logits come, what comes beside them, or how much memory they take, and not what they
are. Keys and values of decoders serve generation. A recomputed layer would draw other dropout masks than the clients'.
Chunks of a feed-forward part need batches whose length is a multiple of theirs, which batches of texts are not."""

OFFSET = frozenset(
    {
        *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
        *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Architectures that count positions from their padding token's number plus one."""


def saved_settings(path: str, config: ModelConfig) -> Any:  # Any: every architecture has its own class
    """The configuration in a checkpoint, with the values of ``model.config`` in place of its own.

    Raises:
        ModelError: ``model.config`` has a key that it lacks.
    """
    settings = AutoConfig.from_pretrained(path, **origin(config), **config.config)
    for key in config.config:
        if not hasattr(settings, key):
            hint = did_you_mean(key, settings.to_dict())
            hint = hint if hint.startswith("did") else "expected a key of its config.json"
            raise ModelError(f"model.config: a {settings.model_type} model has no {key!r}; {hint}")
    return settings


def check_not_packed(settings: Any) -> None:  # Any: as above
    """Refuse a checkpoint whose weights bitsandbytes packed before: nothing can be merged into them.

    Raises:
        ModelError: it says what to take instead.
    """
    packed = getattr(settings, "quantization_config", None) or {}
    packed = packed if isinstance(packed, dict) else packed.to_dict()
    if str(packed.get("quant_method", "")).startswith("bitsandbytes"):
        raise ModelError(
            "its weights were quantised by bitsandbytes, and no adapter can be merged into them; take the checkpoint "
            'that it was made of, and set model.quantization = "nf4" or "int8"'
        )


def for_logits(settings: Any) -> None:  # Any: as above
    """Set, in place, all that PolyRank's way to compute asks for and that leaves the logits as they are."""
    for part in (settings, settings.get_text_config()):
        for key, value in LOGITS_ONLY.items():
            if hasattr(part, key):
                setattr(part, key, value)


def as_saved(settings: Any, config: ModelConfig) -> None:  # Any: as above
    """Undo `for_logits`, in place: a model that is given away keeps keys and values as its checkpoint did."""
    saved = saved_settings(resolve_name(config.name), config)
    for part, before in ((settings, saved), (settings.get_text_config(), saved.get_text_config())):
        for key in LOGITS_ONLY:
            if hasattr(part, key) and hasattr(before, key):
                setattr(part, key, getattr(before, key))


def positions(settings: Any, pad: int) -> int | None:  # Any: as above
    """How many tokens a text may have; None where the architecture has no such limit."""
    found = getattr(settings.get_text_config(), "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    return found - pad - 1 if settings.model_type in OFFSET else found


def end_token(settings: Any) -> int | None:  # Any: as above
    """The token that the head looks for, and needs equally often in all texts: encoder-decoders' end token."""
    found = getattr(settings, "eos_token_id", None)
    return found if settings.is_encoder_decoder and isinstance(found, int) else None
