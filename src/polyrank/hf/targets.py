"""Which modules of a base get LoRA, as ``model.targets`` names them, and what is refused before anything is trained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_TARGETS
from torch import nn
from transformers.pytorch_utils import Conv1D

from polyrank.core.errors import ModelError, did_you_mean
from polyrank.hf.load import BaseModel

ALL = "all-linear"
PLAIN = "base"


def targeted(base: BaseModel, kind: str) -> list[str]:
    """The linear layers that the configuration names, in the order of the model; nothing of its head.

    Experts that are held as one tensor, and routers of another kind, are no linear layers.

    Args:
        base: the model.
        kind: transformers' name of the architecture.

    Raises:
        ModelError: a target names no linear layer of the model, or one that gives words or is the table of them.
    """
    targets = base.config.targets
    if targets == "default":
        targets = DEFAULT_TARGETS.get(kind, ALL)
    elif isinstance(targets, str) and re.fullmatch(r"\w+", targets):
        targets = [targets]
    head = tuple(f"{name}." for name in base.head_modules)
    modules = {name: own for name, own in base.model.named_modules() if name and not f"{name}.".startswith(head)}
    tables = _tables(base.model)
    linear = [name for name, own in modules.items() if isinstance(own, nn.Linear | Conv1D) and name not in tables]
    if targets == ALL:
        found = dict.fromkeys(linear, ALL)
    elif isinstance(targets, str):
        found = {name: targets for name in modules if _pattern(targets).fullmatch(name)}
    else:
        found = {name: target for name in modules for target in targets if f".{name}".endswith(f".{target}")}
    for target in [targets] if isinstance(targets, str) else targets or [""]:
        if target not in found.values():
            raise ModelError(_no_target(base, target or base.config.targets, linear))
    for name, target in found.items():
        if name in tables:
            raise ModelError(
                f"model.targets: {name} is {tables[name]} of {base.config.name}; an adapter of it would change what "
                "words are, and other programs refuse it. Leave it out of model.targets"
            )
        if name not in linear and any(True for _ in modules[name].children()):
            raise ModelError(_no_target(base, target, linear))
        if name not in linear:
            raise ModelError(
                f"model.targets: {name} is a {type(modules[name]).__name__}; only linear layers can be adapted. "
                "Name the linear modules in model.targets"
            )
    return list(found)


def adapt(model: nn.Module, names: Sequence[str], slot: str, **options: Any) -> dict[str, LoraLinear]:
    """Put PEFT's layer of rank 1 around each of these modules, or another slot into the one that is there.

    PEFT is shown a plain module around the model: by a model's own configuration it would give the experts and routers
    of some architectures factors of another kind, also where other modules of these names are meant.

    Args:
        model: changed in place.
        names: of linear layers.
        slot: PEFT's name for the adapter.
        **options: of ``LoraConfig``; Any: they have many types.

    Returns:
        module's name -> its layer.
    """
    config = LoraConfig(r=1, target_modules=[f"{PLAIN}.{name}" for name in names], **options)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # what PEFT draws is never used
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, nn.ModuleDict({PLAIN: model}), adapter_name=slot)
    layers = {name: model.get_submodule(name) for name in names}
    for layer in layers.values():
        layer.cast_input_dtype_enabled = False  # type: ignore[assignment]  # PEFT's own switch, which torch knows not
    return layers


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ModelError(f"model.targets: {text!r} is no pattern: {error}; expected a regular expression") from None


def _tables(model: nn.Module) -> dict[str, str]:
    """Modules that hold numbers for each word, and what they are."""
    found: dict[int, str] = {}
    for finder, what in (("get_output_embeddings", "the output layer"), ("get_input_embeddings", "the embeddings")):
        find: Any = getattr(model, finder, lambda: None)  # Any: a model's methods have no types
        found[id(find())] = what
    return {name: found[id(module)] for name, module in model.named_modules() if id(module) in found}


def _no_target(base: BaseModel, found: object, linear: Iterable[str]) -> str:
    known = {name.rpartition(".")[2] for name in linear}
    hint = did_you_mean(found, known) if isinstance(found, str) else f"known: {', '.join(sorted(known))}"
    return (
        f"model.targets: {found!r} is no linear layer of {base.config.name} outside of its head; {hint} "
        '(expected a list of such names, "default" or "all-linear")'
    )
