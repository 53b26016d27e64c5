"""What every accumulator does with an update before and beside its factors: check it, and average its dense tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyrank.adapter import Adapter
from polyrank.aggregation.method import Partial
from polyrank.errors import AdapterError
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate


def check_update(update: ClientUpdate, previous: Adapter) -> None:
    """Refuse an update that cannot be added to sums of the global adapter's shapes.

    Raises:
        AdapterError: the weight is negative or not finite, a module or dense tensor is unknown or has another shape, or
            a rank is above the global adapter's; the client is named.
    """
    if not 0 <= update.weight < math.inf:
        raise AdapterError(f"client {update.client} has the weight {update.weight}; expected a number of 0 or more")
    for name, factors in update.adapter.modules.items():
        known = previous.modules.get(name)
        if known is None:
            raise AdapterError(f"client {update.client} sent the module {name!r}, which the global adapter lacks")
        if (factors.d_out, factors.d_in) != (known.d_out, known.d_in):
            raise AdapterError(
                f"client {update.client} sent a {factors.d_out} x {factors.d_in} update for {name}; "
                f"the global adapter's is {known.d_out} x {known.d_in}"
            )
        if factors.rank > known.rank:
            raise AdapterError(
                f"client {update.client} sent rank {factors.rank} for {name}; the global adapter has rank {known.rank}"
            )
    for name, tensor in update.adapter.dense.items():
        expected = previous.dense.get(name)
        if expected is None:
            raise AdapterError(f"client {update.client} sent the tensor {name!r}, which the global adapter lacks")
        if tensor.shape != expected.shape:
            raise AdapterError(
                f"client {update.client} sent {name} as {tuple(tensor.shape)}; expected {tuple(expected.shape)}"
            )


class DenseMean:
    """The weighted mean of dense tensors over the clients that sent them; the previous value where nobody did."""

    def __init__(self, previous: Adapter) -> None:
        self._previous = previous.dense
        self._sums = {name: torch.zeros_like(t, dtype=wide(t.dtype)) for name, t in previous.dense.items()}
        self._weights = dict.fromkeys(previous.dense, 0.0)

    def add(self, update: ClientUpdate, weight: float) -> None:
        """Add one client's tensors."""
        for name, tensor in update.adapter.dense.items():
            total = self._sums[name]
            total.add_(tensor, alpha=min(weight, torch.finfo(total.dtype).max))
            self._weights[name] += weight

    def merge(self, other: DenseMean) -> None:
        """Add what another one has seen."""
        for name, total in self._sums.items():
            total.add_(other._sums[name])
            self._weights[name] += other._weights[name]

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`; only what somebody sent."""
        sent = {name: weight for name, weight in self._weights.items() if weight > 0}
        return Partial(sent, {name: self._sums[name] for name in sent})

    def restore(self, partial: Partial) -> None:
        """As `polyrank.aggregation.method.Portable`."""
        check_names("dense tensors", partial.about, self._sums)
        for name in partial.about:
            total = self._sums[name]
            total.add_(taken(partial, name, total.shape, total.dtype))
            self._weights[name] += weight_of(partial.about, name)

    def finish(self) -> dict[str, Tensor]:
        """The means, in the previous dtypes."""
        return {
            name: (total / self._weights[name]).to(self._previous[name].dtype)
            if self._weights[name] > 0
            else self._previous[name]
            for name, total in self._sums.items()
        }


def part(partial: Partial, name: str) -> Partial:
    """One part of a `Partial` made by `together`.

    Raises:
        AdapterError: there is none of this name.
    """
    about = partial.about.get(name)
    if not isinstance(about, Mapping):
        raise AdapterError(f"the sums lack the part {name!r}; expected those of this method")
    start = f"{name}/"
    return Partial(about, {key.removeprefix(start): t for key, t in partial.tensors.items() if key.startswith(start)})


def together(parts: Mapping[str, Partial]) -> Partial:
    """Several as one."""
    tensors = {f"{name}/{key}": tensor for name, one in parts.items() for key, tensor in one.tensors.items()}
    return Partial({name: one.about for name, one in parts.items()}, tensors)


def dump_sums(modules: Mapping[str, Partial], dense: DenseMean) -> Partial:
    """What an accumulator of either kernel has seen: of each module, and of dense tensors."""
    return together({"modules": together(modules), "dense": dense.dump()})


def restore_sums(
    partial: Partial, known: Iterable[str], restore: Callable[[str, Partial], None], dense: DenseMean
) -> None:
    """What `dump_sums` made, back into an accumulator.

    Args:
        partial: of `dump_sums`.
        known: the modules of the global adapter.
        restore: takes a module's name and its part.
        dense: takes the rest.

    Raises:
        AdapterError: as `polyrank.aggregation.method.Portable`; the module is named.
    """
    modules = part(partial, "modules")
    check_names("modules", modules.about, known)
    for name in modules.about:
        try:
            restore(name, part(modules, name))
        except AdapterError as error:
            raise AdapterError(f"{name}: {error}") from None
    dense.restore(part(partial, "dense"))


def check_names(what: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that the server lacks.

    Raises:
        AdapterError: the first of them is named.
    """
    if unknown := sorted(set(found) - set(known)):
        raise AdapterError(f"the sums have {what} that the global adapter lacks: {unknown[0]!r}")


def taken(partial: Partial, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """One tensor of a `Partial`, checked.

    Raises:
        AdapterError: it is missing, of another shape or type, or not finite.
    """
    tensor = partial.tensors.get(name)
    if tensor is None:
        raise AdapterError(f"the sums lack the tensor {name!r}; expected those of this method")
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise AdapterError(
            f"the sums have {name} as {tuple(tensor.shape)} of {tensor.dtype}; expected {tuple(shape)} of {dtype}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"the sums have NaN or infinite values in {name}")
    return tensor


def weight_of(about: Mapping[str, Any], name: str) -> float:  # Any: JSON
    """A weight of a `Partial`, checked.

    Raises:
        AdapterError: it is no finite number of 0 or more.
    """
    value = about.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise AdapterError(f"the sums have the weight {value!r} for {name!r}; expected a number of 0 or more")
    return float(value)
