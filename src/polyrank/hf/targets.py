"""Which modules of a base get LoRA, as ``model.targets`` names them, and what is refused before anything is trained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_TARGETS
from torch import nn
from transformers.pytorch_utils import Conv1D

from polyrank.core.errors import ModelError, did_you_mean
from polyrank.hf.load import BaseModel


def inject(base: BaseModel, kind: str, slot: str) -> dict[str, LoraLayer]:
    """Put a LoRA layer around every module that the configuration names.

    Args:
        base: its model is changed in place.
        kind: transformers' name of the architecture.
        slot: PEFT's name for the adapter.

    Returns:
        module's name -> its layer.

    Raises:
        ModelError: the targets name no linear layer of the model, or one that gives words or is the table of them.
    """
    targets = base.config.targets
    if targets == "default":
        targets = DEFAULT_TARGETS.get(kind, "all-linear")
    elif isinstance(targets, str) and re.fullmatch(r"\w+", targets):
        targets = [targets]  # one name; PEFT takes a string for a pattern of whole paths
    linear = [name for name, module in base.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    tables = _tables(base.model)
    head = "|".join(re.escape(name) for name in base.head_modules)
    lora = LoraConfig(
        r=1,
        target_modules=targets,
        exclude_modules=rf"({head})(\..*)?",  # a list of names would leave out the parts of those modules
        lora_dropout=base.config.dropout,
    )
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # what PEFT draws is never used
            warnings.simplefilter("ignore")
            inject_adapter_in_model(lora, base.model, adapter_name=slot)
    except ValueError:
        raise ModelError(_no_target(base, base.config.targets, linear)) from None
    layers = {name: module for name, module in base.model.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        if name in tables:
            raise ModelError(
                f"model.targets: {name} is {tables[name]} of {base.config.name}; an adapter of it would have to change "
                "the embeddings of words too, and other programs refuse it. Leave it out of model.targets"
            )
        if not isinstance(layer, LoraLinear):
            raise ModelError(
                f"model.targets: {name} is a {type(layer).__name__}; only linear layers can be adapted. "
                "Name the linear modules in model.targets"
            )
        layer.cast_input_dtype_enabled = False
    for target in targets if isinstance(targets, list) else []:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ModelError(_no_target(base, target, linear))
    return layers


def _tables(model: nn.Module) -> dict[str, str]:
    """Modules that hold a number for each word, and what they are."""
    found: dict[int, str] = {}
    for finder, what in (("get_output_embeddings", "the output layer"), ("get_input_embeddings", "the embeddings")):
        find: Any = getattr(model, finder, lambda: None)  # Any: a model's methods have no types
        module = find()
        if module is not None:
            found[id(module)] = what
    return {name: found[id(module)] for name, module in model.named_modules() if id(module) in found}


def _no_target(base: BaseModel, found: object, linear: Iterable[str]) -> str:
    known = {name.rpartition(".")[2] for name in linear if not name.startswith(base.head_modules)}
    hint = did_you_mean(found, known) if isinstance(found, str) else f"known: {', '.join(sorted(known))}"
    return (
        f"model.targets: {found!r} is no linear layer of {base.config.name} outside of its head; {hint} "
        '(expected a list of such names, "default" or "all-linear")'
    )
