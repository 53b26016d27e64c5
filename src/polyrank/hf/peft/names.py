"""Names in an adapter file: PEFT's prefix, what wrappers add, and which tensor is which factor of which module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from polyrank.core.errors import AdapterError

PREFIX = "base_model.model."

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes that torch.compile, FSDP and activation checkpointing put between a module and its parent."""

PERHAPS = ("module.", PREFIX)
"""What DistributedDataParallel and a second ``get_peft_model`` add; a base may have modules of these names, too."""

Kind = Literal["linear", "embedding", "convolution"]
Side = Literal["a", "b", "bias"]

SUFFIXES: Mapping[str, tuple[Side, Kind]] = {
    ".lora_A.weight": ("a", "linear"),
    ".lora_B.weight": ("b", "linear"),
    ".lora_B.bias": ("bias", "linear"),
    ".lora_embedding_A": ("a", "embedding"),
    ".lora_embedding_B": ("b", "embedding"),
}

_VOCABULARY = frozenset(
    (
        *("embed_tokens", "word_embeddings", "word_embedding", "token_embeddings", "tok_embeddings", "wte", "shared"),
        *("embed_in", "embed_out", "lm_head", "output_layer"),
    )
)
"""What architectures call the layers with a row per token."""

_LIVE = re.compile(r"\.(lora_(?:embedding_)?[AB]|modules_to_save)\.(\w+)(\.|$)|\.original_module\.")
_TOKENS = re.compile(r"\.token_adapter\.|\.trainable_tokens_")


class Factor(NamedTuple):
    """What one tensor is: a side of the factors of a module; a convolution's are called as a linear layer's."""

    module: str
    side: Side
    kind: Kind


def inner_name(key: str) -> str | None:
    """A stored tensor's name as PEFT knew it, without PEFT's prefix; None where the key has no such prefix.

    >>> inner_name("module._orig_mod.base_model.model.encoder.weight")
    'encoder.weight'
    """
    outside = re.match(rf"(?:(?:module|{'|'.join(WRAPPERS)})\.)*(?={re.escape(PREFIX)})", key)
    return key[outside.end() :].removeprefix(PREFIX) if outside else None


def unwrapped(name: str) -> str:
    """The name without what wrappers put into it; they use names that nothing else has.

    >>> unwrapped("_orig_mod.layers.0._checkpoint_wrapped_module.query")
    'layers.0.query'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def common_wrapping(names: Iterable[str]) -> str:
    """The start that all names share and that a wrapper may have added; empty where there is none.

    >>> common_wrapping(["module.base_model.model.fc.weight", "module.base_model.model.head.weight"])
    'module.base_model.model.'
    """
    rest, found = list(names), ""
    while start := next((each for each in PERHAPS if rest and all(name.startswith(each) for name in rest)), ""):
        rest, found = [name.removeprefix(start) for name in rest], found + start
    return found


def factor(name: str) -> Factor | None:
    """Which factor a tensor is; None for a tensor that is whole (of a head, a bias, saved embeddings).

    Names are those of PEFT's state dicts, with or without its prefix. Whatever reads such names asks here, so that
    nothing is taken for a factor or for a head that is neither.

    >>> factor("layers.0.query.lora_A.weight")
    Factor(module='layers.0.query', side='a', kind='linear')

    Raises:
        AdapterError: the tensor is a part of something that is more than ``scale * B @ A``.
    """
    for suffix, (side, kind) in SUFFIXES.items():
        if name.endswith(suffix):
            module = name.removesuffix(suffix)
            if ".base_layer." in f".{module}.":
                raise AdapterError(
                    f"{name} is LoRA inside of another LoRA layer (nn.MultiheadAttention, parameters of experts); it "
                    "cannot be read; expected LoRA of layers that stand alone"
                )
            return Factor(module, side, kind)
    if ".lora_magnitude_vector" in name:
        raise AdapterError(
            f"{name.partition('.lora_magnitude_vector')[0]} has a lora_magnitude_vector (DoRA): its update depends on "
            "the weights of the base and is not scale * B @ A; merge it into its base first"
        )
    if _LIVE.search(name):
        raise AdapterError(
            f"{name} is named as in a live model, with the name of its adapter; expected the names that "
            "save_pretrained and get_peft_model_state_dict give"
        )
    if _TOKENS.search(name):
        raise AdapterError(f"{name} belongs to trainable_token_indices, which replace single rows of an embedding")
    if "lora_" in name:
        raise AdapterError(f"{name} is no plain LoRA factor of a linear layer; it cannot be read")
    return None


def ignored(name: str) -> bool:
    """Whether a tensor serves training only: VeLoRA's direction, which PEFT uses in backward passes alone."""
    return name.endswith(".lora_velora_embed")


def of_vocabulary(name: str) -> bool:
    """Whether a module or tensor by this name has a row per token, as embeddings and language modelling heads have.

    >>> of_vocabulary("model.embed_tokens.base_layer.weight"), of_vocabulary("classifier.weight")
    (True, False)
    """
    return _last(name) in _VOCABULARY


def of_labels(name: str) -> bool:
    """Whether a tensor by this name belongs to a head that has a row per label.

    >>> of_labels("classifier.out_proj.weight"), of_labels("lm_head.weight"), of_labels("position_embeddings.weight")
    (True, False, False)
    """
    parts = {part.rpartition("_")[2] for part in name.split(".")}
    return bool(parts & {"classifier", "score", "head"}) and not of_vocabulary(name)


def _last(name: str) -> str:
    """The last part of the name of a tensor's module."""
    parts = [part for part in name.split(".") if part not in ("weight", "bias", "base_layer")]
    return parts[-1] if parts else ""
