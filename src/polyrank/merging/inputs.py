"""What goes into a merge: adapter folders that fit each other, read module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate
from polyrank.hf.peft.file import AdapterFile
from polyrank.hf.peft.tying import check_tying
from polyrank.hf.peft.vocabulary import check_tokens
from polyrank.merging.checks import (
    Module,
    check_common,
    check_settings,
    checked_weights,
    has_lora_bias,
    plan_dense,
    plan_modules,
    unique,
    warn_of_lacking,
    with_common_names,
)
from polyrank.merging.classes import Rows, class_rows


class LazyModules(Mapping[str, Factors]):
    """Some modules of an adapter, read whenever they are asked for and not kept.

    Raises (when a module is read):
        AdapterError: a value is NaN or infinite.
    """

    def __init__(self, file: AdapterFile, names: Sequence[str]) -> None:
        self._file, self._names = file, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Factors:
        if name not in self._names:
            raise KeyError(name)
        factors = self._file.factors(name)
        for factor, side in ((factors.a, "A"), (factors.b, "B")):
            _check_finite(self._file, f"lora_{side} of {name}", factor)
        return factors

    def __contains__(self, name: object) -> bool:  # the inherited one would read the value
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Open adapters in the order of their names, each of a weight above 0, and the union of what they hold.

    Args:
        files: name -> adapter.
        weights: name -> weight.
        modules: by name.
        dense: names of the tensors that are whole, and the widest dtype of each.
        lora_bias: whether any adapter has biases beside its B.
        lacking: adapter -> the modules and tensors that others have.
        tied: module -> the embedding whose factors it has, transposed; it isn't merged but follows.
        rows: adapter -> the rows of its head in the order that all are brought to.
    """

    files: Mapping[str, AdapterFile]
    weights: Mapping[str, float]
    modules: Mapping[str, Module]
    dense: Mapping[str, torch.dtype]
    lora_bias: bool
    lacking: Mapping[str, tuple[str, ...]]
    tied: Mapping[str, str]
    rows: Mapping[str, Rows]

    def updates(self, modules: Sequence[str]) -> Iterator[ClientUpdate]:
        """Some modules of every adapter, as a method takes them; values are read when they are used."""
        for name, file in self.files.items():
            held = [module for module in modules if module in file.layers]
            yield ClientUpdate(name, Adapter(LazyModules(file, held)), self.weights[name])

    def mean_terms(self, module: str) -> list[tuple[float, Tensor, Tensor]]:
        """The weighted mean of one module's products, as terms for `lowrank.stack`."""
        owners = [name for name, file in self.files.items() if module in file.layers]
        total = sum(self.weights[name] for name in owners)
        terms = []
        for name in owners:
            factors = self.files[name].factors(module)
            terms.append((self.weights[name] / total * factors.scale, factors.a, factors.b))
        return terms

    def dense_mean(self, name: str) -> Tensor:
        """The weighted mean of one tensor over the adapters that have it, in float32 or wider.

        Raises:
            AdapterError: a value is NaN or infinite, or the tensor holds whole numbers and they differ.
        """
        owners = {each: file for each, file in self.files.items() if name in file.dense}
        first = self._whole(next(iter(owners)), name)
        if not first.is_floating_point():
            for each in owners:
                if not torch.equal(self._whole(each, name), first):
                    raise AdapterError(f"{name} holds whole numbers, and those of {each} differ; they have no mean")
            return first
        total = sum(self.weights[each] for each in owners)
        mean = torch.zeros(first.shape, dtype=wide(self.dense[name]))
        for each, file in owners.items():
            tensor = self._whole(each, name)
            _check_finite(file, name, tensor)
            mean.add_(tensor, alpha=self.weights[each] / total)
        return mean

    def _whole(self, adapter: str, name: str) -> Tensor:
        """One tensor of an adapter, with the rows of a head in the common order."""
        tensor, rows = self.files[adapter].tensor(name), self.rows.get(adapter, {}).get(name)
        return tensor if rows is None else tensor[rows]

    def bias_mean(self, module: str) -> Tensor:
        """The weighted mean of ``s_k`` times the bias of B over the adapters that have the module; none counts as 0."""
        layer = self.modules[module].layer
        mean = torch.zeros(layer.d_out, dtype=wide(self.modules[module].dtype))
        owners = {name: file for name, file in self.files.items() if module in file.layers}
        total = sum(self.weights[name] for name in owners)
        for name, file in owners.items():
            if file.layers[module].bias:
                bias = file.bias(module)
                _check_finite(file, f"the LoRA bias of {module}", bias)
                mean.add_(bias, alpha=self.weights[name] / total * file.layers[module].scale)
        return mean


@contextlib.contextmanager
def opened(
    folders: Sequence[Path | str], weights: Sequence[float] | None, *, allow_different_bases: bool = False
) -> Iterator[Inputs]:
    """Open adapter folders and check that they can be merged.

    Raises:
        AdapterError: there is no folder, a folder cannot be read, the weights do not fit, or two adapters belong to
            different bases, tasks or layers.
    """
    paths = [] if isinstance(folders, str) else [Path(folder) for folder in folders]
    if not paths:
        raise AdapterError("there is no adapter to merge; expected a list of at least one folder")
    shares = checked_weights(paths, weights)
    with contextlib.ExitStack() as stack:
        found = [
            (path, stack.enter_context(AdapterFile(path)), share) for path, share in zip(paths, shares, strict=True)
        ]
        check_settings([file for _, file, _ in found], allow_different_bases=allow_different_bases)
        counted = sorted(
            ((path, file, share) for path, file, share in found if share > 0), key=lambda each: str(each[0])
        )
        names = [unique(str(path), i, [str(path) for path, _, _ in counted]) for i, (path, _, _) in enumerate(counted)]
        files = with_common_names(dict(zip(names, (file for _, file, _ in counted), strict=True)))
        modules = plan_modules(files)
        rows = class_rows(files)  # before shapes are compared: what differs is better told by names
        dense = plan_dense(files, modules)
        lora_bias = has_lora_bias(files, modules)
        check_common(files)
        check_tokens(files)
        tied = check_tying(files)
        shares = [share for _, _, share in counted]
        yield Inputs(
            files,
            dict(zip(names, shares, strict=True)),
            modules,
            dense,
            lora_bias,
            warn_of_lacking(files, modules, dense),
            tied,
            rows,
        )


def _check_finite(file: AdapterFile, what: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"{file.folder}: {what} holds NaN or infinite values; the adapter is broken")
