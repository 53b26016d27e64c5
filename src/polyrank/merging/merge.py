"""`merge`: one run of an aggregation method over adapter folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyrank.aggregation import METHODS, Aggregate, Method, build
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.files import read_whole
from polyrank.core.state import ServerState
from polyrank.hf.peft.shared import OURS
from polyrank.hf.peft.tying import transposed
from polyrank.merging.checks import Module
from polyrank.merging.inputs import Inputs, opened
from polyrank.merging.result import Loss, Merged
from polyrank.merging.settings import check_loads, settings_of

DEFAULT = "flexlora"
"""The best approximation of the weighted mean: adapters from elsewhere share no bases whose rows could be averaged."""

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def merge(
    adapters: Sequence[Path | str],
    weights: Sequence[float] | None = None,
    *,
    method: str | Method = DEFAULT,
    options: Mapping[str, Any] | None = None,  # Any: option values as in a configuration
    rank: int | None = None,
    dtype: str | None = None,
    allow_different_bases: bool = False,
) -> Merged:
    """One adapter from PEFT adapter folders of any ranks, alphas and target modules.

    A method runs once, from an empty global adapter. Its target is ``delta* = sum_k p_k s_k B_k A_k``, with ``p_k`` the
    weights of the adapters that have the module, divided by their sum; ``error`` of the result says how far the method
    is from it. Dense tensors (a head) are averaged over the adapters that have them.

    Args:
        adapters: folders as PEFT writes them, with safetensors.
        weights: one per adapter, 0 or more; equal by default.
        method: name or object of a method for which merging once makes sense.
        options: of a method given by name.
        rank: of every module. By default the highest of the module's inputs; for methods that stack, the sum. A lower
            rank is the best approximation (SVD) of the method's result, a higher one adds zeros.
        dtype: of the written tensors; by default of each the widest of its inputs.
        allow_different_bases: go on where the adapters name different base models.

    Memory: methods of fixed sums (``info.fixed_sums``) hold them and one module of one adapter; the others hold one
    module of all adapters; the result and the sums are in memory whole.

    Raises:
        AdapterError: an adapter is broken, or two do not fit each other.
        ConfigError: the method, an option, the rank or the dtype is none to merge with.
    """
    chosen = _checked_method(build(method, options) if isinstance(method, str) else method, weights)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    with opened(adapters, weights, allow_different_bases=allow_different_bases) as inputs:
        _check_rank(rank, inputs.modules)
        modules: dict[str, Factors] = {}
        losses: dict[str, Loss] = {}
        for names in _portions(chosen, inputs):
            result = _run(chosen, inputs, names, rank)
            for name in names:
                plan = inputs.modules[name]
                factors = _fitted(_combined(result, name, plan), rank)
                modules[name] = _narrowed(factors, DTYPES[dtype] if dtype else plan.dtype, name)
                losses[name] = _loss(inputs, name, modules[name])
        for name, embedding in inputs.tied.items():
            modules[name], losses[name] = transposed(modules[embedding]), losses[embedding]
        files = list(inputs.files.values())
        settings = settings_of(files, modules, lora_bias=inputs.lora_bias, whole=not inputs.lacking)
        check_loads(settings, [name for name in modules if name not in inputs.tied])
        return Merged(
            Adapter(modules, _dense(inputs, modules, DTYPES[dtype] if dtype else None)),
            chosen.info.name,
            losses,
            inputs.modules,
            inputs.lacking,
            settings,
            _common_target(inputs),
        )


def _checked_method(method: Method, weights: Sequence[float] | None) -> Method:
    info = method.info
    if not info.merges:
        able = ", ".join(name for name, cls in METHODS.items() if cls.info.merges)
        raise ConfigError(
            f"{info.name} cannot merge adapters: it averages {info.averages}, which only adapters of one federation "
            f"have in common; methods that can: {able}"
        )
    if info.own_weights and weights is not None:
        raise ConfigError(
            f"{info.name} weighs adapters by what they hold, such as the norms of their updates; leave the weights out"
        )
    return method


def _check_rank(rank: int | None, modules: Mapping[str, Module]) -> None:
    if rank is None:
        return
    if rank < 1:
        raise ConfigError(f"the rank is {rank}; expected 1 or more")
    sizes = {name: min(module.layer.d_out, module.layer.d_in) for name, module in modules.items()}
    widest = max(sizes, key=lambda name: sizes[name])
    if rank > sizes[widest]:
        layer = modules[widest].layer
        raise ConfigError(
            f"the rank {rank} is above the size of {widest}, the widest layer, which is {layer.d_out} x {layer.d_in}"
        )


def _portions(method: Method, inputs: Inputs) -> list[list[str]]:
    """Modules that are merged in one go.

    A method of sums takes everything at once: what it weighs by may depend on all modules, and its memory does not
    grow with the adapters. One that keeps the adapters' factors takes one module at a time.
    """
    names = [name for name in inputs.modules if name not in inputs.tied]
    return [names] if method.info.fixed_sums else [[name] for name in names]


def _run(method: Method, inputs: Inputs, names: Sequence[str], rank: int | None) -> Aggregate:
    """One round without a past."""
    start = {name: inputs.modules[name].zeros(max(*inputs.modules[name].ranks, rank or 0)) for name in names}
    levels = {name: tuple(sorted(set(inputs.modules[name].ranks))) for name in names}
    kernel = method.start(ServerState(0, Adapter(start), {}, {}), levels)
    sums = kernel.empty()
    for update in inputs.updates(names):
        sums = kernel.fold(sums, update)
    return kernel.conclude(sums)


def _combined(result: Aggregate, name: str, module: Module) -> Factors:
    """Adapter and base change as one; its rank is at most the sum of the inputs', which is what the mean has."""
    factors = result.adapter.modules[name]
    change = result.base_change.modules.get(name) if result.base_change else None
    if change is None:
        return factors
    terms = [(each.scale, each.a, each.b) for each in (change, factors) if bool(each.b.any())]
    if not terms:
        return factors
    a, b = lowrank.stack(terms)
    limit = min(sum(module.ranks), module.layer.d_out, module.layer.d_in)
    return Factors(*(lowrank.truncate(a, b, limit) if a.shape[0] > limit else (a, b)))


def _fitted(factors: Factors, rank: int | None) -> Factors:
    """Cut or padded to a rank."""
    if rank is None or rank == factors.rank:
        return factors
    if rank < factors.rank:
        return Factors(*lowrank.truncate(factors.a, factors.b, rank), factors.scale)
    a, b = factors.a.new_zeros(rank, factors.d_in), factors.b.new_zeros(factors.d_out, rank)
    a[: factors.rank], b[:, : factors.rank] = factors.a, factors.b
    return Factors(a, b, factors.scale)


def _narrowed(factors: Factors, dtype: torch.dtype, name: str) -> Factors:
    return factors.map(lambda tensor: _cast(tensor, dtype, name))


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    out = tensor.to(dtype)
    if out.is_floating_point() and not bool(torch.isfinite(out).all()):
        raise AdapterError(f"{name} does not fit into {str(dtype).removeprefix('torch.')}; choose --dtype float32")
    return out


def _dense(inputs: Inputs, modules: Mapping[str, Factors], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What is averaged whole, whatever the method; a LoRA bias is scaled like its B."""
    dense: dict[str, Tensor] = {}
    for name, widest in inputs.dense.items():
        dense[name] = _cast(inputs.dense_mean(name), (dtype or widest) if widest.is_floating_point else widest, name)
    for name, factors in modules.items() if inputs.lora_bias else ():
        key = f"{name}.lora_B.bias"
        dense[key] = _cast(inputs.bias_mean(name) / factors.scale, dtype or inputs.modules[name].dtype, key)
    return dense


def _loss(inputs: Inputs, name: str, factors: Factors) -> Loss:
    terms = inputs.mean_terms(name)
    gap = lowrank.difference_norm((factors.a.double() * factors.scale, factors.b), terms)
    return Loss(gap, lowrank.norm(*lowrank.stack((c, a.double(), b.double()) for c, a, b in terms)))


def _common_target(inputs: Inputs) -> Any:  # Any: JSON values
    """The content of ``polyrank.json``, if every adapter has the same; classes are in the order of the first."""
    contents: list[Any] = []  # Any: JSON values
    for name, file in inputs.files.items():
        try:
            content = json.loads(read_whole(file.folder / OURS))
        except (OSError, ValueError, RecursionError):
            return None
        if name in inputs.rows:  # brought into the order of the first
            content["labels"] = contents[0]["labels"]
        contents.append(content)
    return contents[0] if all(content == contents[0] for content in contents) else None
