"""Clients' updates, kept as they are until the round is concluded: what a robust method adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from polyrank.aggregation.sums import Partial, Summed, check_names
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True, eq=False)
class Kept(Summed):
    """Updates in any order, of weight 1 each: it grows with every client, and a tree sends all of it."""

    updates: list[ClientUpdate]

    def __add__(self, other: Kept) -> Kept:
        return Kept([*self.updates, *other.updates])

    def __iadd__(self, other: Kept) -> Self:
        self.updates.extend(other.updates)
        return self

    def partial(self) -> Partial:
        """Every client's tensors; its name and its modules' scales beside."""
        tensors = {
            f"clients/{i}/{name}": tensor
            for i, update in enumerate(self.updates)
            for name, tensor in update.adapter.tensors()
        }
        return Partial(tensors, {"clients": [_about(update) for update in self.updates]})


def received(partial: Partial) -> Kept:
    """What `Kept.partial` made, on another machine; whether it fits the global adapter is the kernel's to check.

    Raises:
        AdapterError: clients or tensors are missing, unknown, no factors or not finite.
    """
    listed = partial.about.get("clients")
    if not isinstance(listed, list):
        raise AdapterError("the sums do not say whose updates they are; expected those of a robust method")
    found = Kept([_update(i, about, partial.tensors) for i, about in enumerate(listed)])
    check_names("tensors", partial.tensors, found.partial().tensors)
    return found


def _about(update: ClientUpdate) -> list[Any]:  # Any: JSON
    scales = {name: factors.scale for name, factors in update.adapter.modules.items()}
    return [update.client, scales, sorted(update.adapter.dense)]


def _update(i: int, about: object, tensors: Mapping[str, Tensor]) -> ClientUpdate:
    match about:
        case [str(client), dict() as scales, list() as dense] if all(map(_is_number, scales.values())):
            pass
        case _:
            raise AdapterError(f"the sums have the update {about!r}; expected a client, its scales and its tensors")

    def tensor(name: str) -> Tensor:
        found = tensors.get(f"clients/{i}/{name}")
        if found is None or not found.is_floating_point():
            raise AdapterError(f"the sums lack {name} of client {client}, or its values are no floats")
        return found

    modules = {name: Factors(tensor(f"{name}.a"), tensor(f"{name}.b"), float(scale)) for name, scale in scales.items()}
    adapter = Adapter(modules, {name: tensor(name) for name in dense})
    if bad := adapter.first_not_finite():
        raise AdapterError(f"the sums have NaN or infinite values in {bad} of client {client}")
    return ClientUpdate(client, adapter, 1.0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
