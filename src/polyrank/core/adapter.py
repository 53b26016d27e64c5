"""The values that travel: `Factors` (one module's low-rank update) and `Adapter` (all of them, with dense tensors)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from polyrank.core import lowrank
from polyrank.core.errors import AdapterError

Part: TypeAlias = Literal["a", "b", "head"]
"""Of an adapter: its A factors, its B factors, its dense tensors."""
PARTS: frozenset[Part] = frozenset(get_args(Part))


@dataclass(frozen=True, eq=False)
class Factors:
    """One module's update, ``delta = scale * b @ a``.

    The scale (alpha / r in LoRA, alpha / sqrt(r) in rsLoRA) stays beside the factors, so factors of different scales
    can be told apart and brought together; nothing else multiplies by it.

    Args:
        a: ``(rank, d_in)``.
        b: ``(d_out, rank)``.
        scale: finite.

    Raises:
        AdapterError: the shapes do not fit each other, or the scale is not finite.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.a.ndim != 2 or self.b.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise AdapterError(
                f"factors do not fit: a is {tuple(self.a.shape)}, b is {tuple(self.b.shape)}; "
                "expected a (rank, d_in) and b (d_out, rank)"
            )
        if not math.isfinite(self.scale):
            raise AdapterError(f"the scale of factors is {self.scale}; expected a finite number")

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def d_in(self) -> int:
        return self.a.shape[1]

    @property
    def d_out(self) -> int:
        return self.b.shape[0]

    def delta(self) -> Tensor:
        """The dense update, ``(d_out, d_in)``, in float32 or wider; for small layers and for checks."""
        dtype = lowrank.wide(self.a.dtype)
        return self.scale * (self.b.to(dtype) @ self.a.to(dtype))

    def norm(self) -> float:
        """``|scale * b a|_F`` without forming the product."""
        return abs(self.scale) * lowrank.norm(self.a, self.b)

    def prefix(self, rank: int) -> Factors:
        """The first ``rank`` rows of ``a`` and columns of ``b`` (views); all of them if there are fewer."""
        return Factors(self.a[:rank], self.b[:, :rank], self.scale)

    def picked(self, indices: Tensor) -> Factors:
        """These rows of ``a`` and columns of ``b`` (copies), in the order of ``indices``, ``(n,)`` in int64."""
        return Factors(self.a[indices], self.b[:, indices], self.scale)

    def rescaled(self, scale: float) -> Factors:
        """The same delta under another scale; ``b`` absorbs the ratio.

        Raises:
            AdapterError: the new scale is 0 and the old one is not.
        """
        if scale == self.scale:
            return self
        if scale == 0:
            raise AdapterError("factors cannot be brought to scale 0: their delta would be lost")
        return Factors(self.a, self.b * (self.scale / scale), scale)

    def map(self, change: Callable[[Tensor], Tensor]) -> Factors:
        """Both factors changed in the same way."""
        return replace(self, a=change(self.a), b=change(self.b))


@dataclass(frozen=True, eq=False)
class Adapter:
    """Module name -> `Factors`, plus named dense tensors that are trained whole (a classification head).

    Ranks and scales may differ from module to module.
    """

    modules: Mapping[str, Factors]
    dense: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The highest rank of any module; 0 without modules."""
        return max((factors.rank for factors in self.modules.values()), default=0)

    @property
    def ranks(self) -> dict[str, int]:
        """Module -> its rank."""
        return {name: factors.rank for name, factors in self.modules.items()}

    def budget(self, rank: int) -> int:
        """How many rank indices a client of this rank has, over all modules."""
        return sum(min(rank, own) for own in self.ranks.values())

    @property
    def parameters(self) -> int:
        """Numbers in all factors, dense tensors left out."""
        return sum(f.a.numel() + f.b.numel() for f in self.modules.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are: what sending this adapter costs."""
        return sum(tensor.nbytes for _, tensor in self.tensors())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under a unique name: ``<module>.a``, ``<module>.b``, then the dense ones."""
        for name, factors in self.modules.items():
            yield f"{name}.a", factors.a
            yield f"{name}.b", factors.b
        yield from self.dense.items()

    def parts(self, names: Collection[Part]) -> dict[str, Tensor]:
        """The tensors of these parts, by the names of `tensors`."""
        factors = {
            f"{module}.{part}": tensor
            for module, own in self.modules.items()
            for part, tensor in (("a", own.a), ("b", own.b))
            if part in names
        }
        return factors | (dict(self.dense) if "head" in names else {})

    def replaced(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """Some tensors, by the names of `tensors`, in the place of its own; scales stay."""
        modules = {
            name: Factors(tensors.get(f"{name}.a", own.a), tensors.get(f"{name}.b", own.b), own.scale)
            for name, own in self.modules.items()
        }
        return Adapter(modules, {name: tensors.get(name, tensor) for name, tensor in self.dense.items()})

    def map(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """Every tensor changed in the same way, e.g. ``lambda t: t.to(torch.bfloat16)``."""
        return Adapter(
            {name: factors.map(change) for name, factors in self.modules.items()},
            {name: change(tensor) for name, tensor in self.dense.items()},
        )

    def prefix(self, rank: int) -> Adapter:
        """The first ``rank`` rank indices of every module; dense tensors whole."""
        return Adapter({name: factors.prefix(rank) for name, factors in self.modules.items()}, self.dense)

    def picked(self, indices: Mapping[str, Sequence[int]]) -> Adapter:
        """These rank indices of the modules that are named, and the others whole; dense tensors whole."""
        modules = {
            name: factors.picked(torch.tensor(indices[name], dtype=torch.int64)) if name in indices else factors
            for name, factors in self.modules.items()
        }
        return Adapter(modules, self.dense)

    def truncated(self, rank: int) -> Adapter:
        """The best approximation of rank ``rank`` of every module's delta (SVD); a higher rank adds zeros."""

        def best(factors: Factors) -> Factors:
            a, b = lowrank.truncate(factors.a, factors.b, rank)
            return Factors(a.to(factors.a.dtype), b.to(factors.b.dtype), factors.scale)

        return Adapter({name: best(factors) for name, factors in self.modules.items()}, self.dense)

    def first_not_finite(self) -> str | None:
        """The name of the first tensor with a NaN or infinite value."""
        return next((name for name, tensor in self.tensors() if not bool(torch.isfinite(tensor).all())), None)

    def identical(self, other: Adapter) -> bool:
        """Same names, scales, dtypes and values, nothing rounded away; an adapter with NaN is identical to none."""
        mine, theirs = dict(self.tensors()), dict(other.tensors())
        return (
            mine.keys() == theirs.keys()
            and all(self.modules[name].scale == other.modules[name].scale for name in self.modules)
            and all(mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine)
        )
