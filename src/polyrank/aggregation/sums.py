"""What clients contribute to a round, as values that are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from polyrank.core.errors import AdapterError


@dataclass(frozen=True, eq=False)
class Partial:
    """Sums as data that can be sent.

    Args:
        tensors: by name; views of the sums' own memory.
        about: JSON values; none where the shapes are fixed.
    """

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


class Summed(Protocol):
    """A contribution, or a sum of several: the same kind of value."""

    def __add__(self, other: Self) -> Self:
        """A new value; neither side changes."""

    def __iadd__(self, other: Self) -> Self:
        """The same sum in this value's memory; the other side is not used afterwards."""

    def partial(self) -> Partial:
        """The value as data; a kernel's ``received`` reads it again."""


@dataclass(frozen=True, eq=False)
class Sums(Summed):
    """Named tensors of fixed shapes.

    Names, shapes and dtypes follow from the federation's ranks and the method alone, whoever came and whatever was
    learned. So sums can be clipped, noised or masked, and one machine's can be added to another's.

    Args:
        tensors: sums of values in float32 or wider; of weights in float64, under names that end in ``weight``; numbers
            of clients in int64, under names that end in ``owners``.
    """

    tensors: dict[str, Tensor]

    def __add__(self, other: Sums) -> Sums:
        """See `Summed`.

        Raises:
            AdapterError: the other sums are of another method or federation.
        """
        check_names("tensors", other.tensors, self.tensors)
        return Sums({name: tensor + other.tensors[name] for name, tensor in self.tensors.items()})

    def __iadd__(self, other: Sums) -> Self:
        """See `Summed`.

        Raises:
            AdapterError: as ``+``.
        """
        check_names("tensors", other.tensors, self.tensors)
        for name, tensor in self.tensors.items():
            tensor += other.tensors[name]  # noqa: PLW2901  # in place
        return self

    def partial(self) -> Partial:
        """See `Summed`."""
        return Partial(self.tensors)

    def like(self, partial: Partial) -> Sums:
        """Sums of these names, shapes and dtypes, as they came from another machine.

        Raises:
            AdapterError: they are others, a value is not finite, or a weight or a number of clients is negative.
        """
        check_names("tensors", partial.tensors, self.tensors)
        found = {name: taken(partial, name, t.shape, t.dtype) for name, t in self.tensors.items()}
        for name, tensor in found.items():
            if name.endswith(("weight", "owners")) and bool((tensor < 0).any()):
                raise AdapterError(f"the sums have a negative value in {name}; expected 0 or more")
        return Sums(found)


def check_names(what: str, found: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Refuse names that are not those of this method and federation.

    Raises:
        AdapterError: the first of them is named.
    """
    if unknown := sorted(found.keys() - known.keys()):
        raise AdapterError(f"the sums have {what} that the global adapter lacks: {unknown[0]!r}")
    if missing := sorted(known.keys() - found.keys()):
        raise AdapterError(f"the sums lack {missing[0]!r}; expected the {what} of this method")


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
