"""Whether adapters fit each other, and what each module and tensor of the merged one will be."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from polyrank.core.adapter import Factors
from polyrank.core.errors import AdapterError
from polyrank.core.lowrank import wide
from polyrank.hf.peft.file import AdapterFile, Layer
from polyrank.hf.peft.names import common_wrapping, of_labels, of_vocabulary

log = logging.getLogger(__name__)

VOCABULARY = "its rows are tokens, and the vocabularies differ in size; expected adapters of one tokenizer"
LABELS = "heads of different labels cannot be averaged"
SHAPES = "tensors of different shapes cannot be averaged; adapters of one base have equal ones"

NAMED = 12
"""Modules that a warning names before it counts the others."""


@dataclass(frozen=True)
class Module:
    """One module of the merged adapter, before it is computed.

    Args:
        layer: of the first adapter of the highest rank; its scale is what the others are brought to.
        ranks: of the adapters that have the module.
        dtype: the widest of theirs.
    """

    layer: Layer
    ranks: tuple[int, ...]
    dtype: torch.dtype

    def zeros(self, rank: int) -> Factors:
        """What a method finds as the previous global factors: nothing."""
        dtype = wide(self.dtype)
        a, b = torch.zeros(rank, self.layer.d_in, dtype=dtype), torch.zeros(self.layer.d_out, rank, dtype=dtype)
        return Factors(a, b, self.layer.scale or 1.0)


def checked_weights(paths: Sequence[Path], weights: Sequence[float] | None) -> Sequence[float]:
    """One per adapter, 0 or more, not all 0; 1 each by default."""
    if weights is None:
        return [1.0] * len(paths)
    if len(weights) != len(paths):
        raise AdapterError(f"there are {len(weights)} weights for {len(paths)} adapters; expected one for each")
    for path, weight in zip(paths, weights, strict=True):
        if not 0 <= weight < math.inf:
            raise AdapterError(f"the weight of {path} is {weight}; expected a number of 0 or more")
    if not any(weights):
        raise AdapterError("all weights are 0; expected at least one above 0")
    return weights


def unique(name: str, i: int, names: Sequence[str]) -> str:
    """The i-th name, numbered if it occurs more than once."""
    return name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"


def check_settings(files: Sequence[AdapterFile], *, allow_different_bases: bool) -> None:
    """One base, one task, one choice of trained biases."""
    first = files[0]
    for file in files[1:]:
        for key, what in (("base_model_name_or_path", "base models"), ("revision", "revisions of the base")):
            mine, theirs = first.settings.get(key), file.settings.get(key)
            if mine and theirs and mine != theirs and not allow_different_bases:
                raise AdapterError(
                    f"the adapters belong to different {what}: {mine!r} ({first.folder}) and {theirs!r} "
                    f"({file.folder}); if both are the same weights, say so: --allow-different-bases, in Python "
                    "allow_different_bases=True"
                )
        tasks = first.settings.get("task_type"), file.settings.get("task_type")
        if all(tasks) and tasks[0] != tasks[1]:
            raise AdapterError(
                f"the adapters are for different tasks: {tasks[0]} ({first.folder}) and {tasks[1]} ({file.folder})"
            )
        biases = first.settings.get("bias") or "none", file.settings.get("bias") or "none"
        if biases[0] != biases[1]:
            raise AdapterError(
                f"the adapters train different biases of the base: {biases[0]} ({first.folder}) and {biases[1]} "
                f"({file.folder}); who trained none has none to average"
            )


def with_common_names(files: Mapping[str, AdapterFile]) -> dict[str, AdapterFile]:
    """The adapters, with what a wrapper put before all names of one removed where another shows that it is none.

    ``module.`` and a second prefix of PEFT's may be a base's own names. Where two adapters have modules that are the
    same but for such a start, the shorter names are the base's.
    """
    starts = {name: common_wrapping([*file.layers, *file.dense]) for name, file in files.items()}
    cores = {name: {module.removeprefix(starts[name]) for module in file.layers} for name, file in files.items()}
    out: dict[str, AdapterFile] = {}
    for name, file in files.items():
        shortest = min((starts[other] for other in files if cores[other] & cores[name]), key=len)
        added = starts[name].removesuffix(shortest)
        out[name] = file.without(added) if added and starts[name].endswith(shortest) else file
    return out


def check_common(files: Mapping[str, AdapterFile]) -> None:
    """Every adapter shares a module with another, and all hang together.

    Raises:
        AdapterError: two adapters, or two groups of them, have no module in common.
    """
    (first, *rest), reached = files, set[str]()
    reached.update(files[first].layers)
    while near := [name for name in rest if reached & files[name].layers.keys()]:
        rest = [name for name in rest if name not in near]
        reached.update(module for name in near for module in files[name].layers)
    if rest:
        raise AdapterError(
            f"{first} and {rest[0]} have no module in common: {min(files[first].layers)} is in one, "
            f"{min(files[rest[0]].layers)} in the other; expected adapters of one base, whose layers have one name"
        )


def plan_modules(files: Mapping[str, AdapterFile]) -> dict[str, Module]:
    """Every module that any adapter has, of one shape; a rank may be above the layer's smaller side, as in PEFT."""
    modules: dict[str, Module] = {}
    for module in sorted({module for file in files.values() for module in file.layers}):
        layers = [(name, file.layers[module]) for name, file in files.items() if module in file.layers]
        highest = max((layer for _, layer in layers), key=lambda layer: (layer.scale != 0, layer.rank))
        owner, first = layers[0]
        dtype = first.dtype
        for name, layer in layers:
            if (layer.kind, layer.a[1:], layer.d_out) != (first.kind, first.a[1:], first.d_out):
                tokens = layer.kind == first.kind == "embedding" or of_vocabulary(module)
                raise AdapterError(
                    f"{module} differs: {first.kind} {first.d_out} x {first.d_in} in {owner}, "
                    f"{layer.kind} {layer.d_out} x {layer.d_in} in {name}; "
                    f"{VOCABULARY if tokens else 'adapters of one base have equal layers'}"
                )
            dtype = torch.promote_types(dtype, layer.dtype)
        modules[module] = Module(highest, tuple(layer.rank for _, layer in layers), dtype)
    return modules


def plan_dense(files: Mapping[str, AdapterFile], modules: Mapping[str, Module]) -> dict[str, torch.dtype]:
    """Every dense tensor that any adapter has, of one shape, and its widest dtype."""
    dense: dict[str, torch.dtype] = {}
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, file in files.items():
        for tensor, shape in file.dense.items():
            dtype = file.dtype(tensor)
            twice = next((m for m in modules if tensor.startswith(f"{m}.") and ".base_layer." not in tensor), None)
            if twice is not None:
                raise AdapterError(f"{twice} is trained whole in {name}, and by LoRA in another adapter")
            owner, expected = first.setdefault(tensor, (name, shape))
            if shape != expected:
                raise AdapterError(
                    f"{tensor} is {list(expected)} in {owner} and {list(shape)} in {name}; "
                    f"{VOCABULARY if of_vocabulary(tensor) else LABELS if of_labels(tensor) else SHAPES}"
                )
            dense[tensor] = torch.promote_types(dtype, dense.get(tensor, dtype))
    return dense


def has_lora_bias(files: Mapping[str, AdapterFile], modules: Mapping[str, Module]) -> bool:
    """Whether any B has a bias; PEFT has it for all modules or none."""
    biased = [module for file in files.values() for module, layer in file.layers.items() if layer.bias]
    for module, plan in modules.items():
        if biased and plan.layer.kind == "embedding":
            raise AdapterError(f"{module} is an embedding and {biased[0]} has a LoRA bias; PEFT cannot load both")
    return bool(biased)


def warn_of_lacking(
    files: Mapping[str, AdapterFile], modules: Mapping[str, Module], dense: Mapping[str, torch.dtype]
) -> dict[str, tuple[str, ...]]:
    """Which adapter lacks what; a warning says so, and names it."""
    lacking: dict[str, tuple[str, ...]] = {}
    for name, file in files.items():
        missing = [m for m in modules if m not in file.layers] + [t for t in dense if t not in file.dense]
        if missing:
            lacking[name] = tuple(missing)
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            log.warning(
                "%s lacks %s%s; averaged over the adapters that have it", name, ", ".join(missing[:NAMED]), more
            )
    return lacking
