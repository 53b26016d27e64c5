"""Kernel 2: sums of the clients' products ``s_k B_k A_k``, kept as stacked factors.

``sum_k c_k s_k B_k A_k`` is one product of stacked factors whose rank is the sum of the ranks, so the mean of the
products, its SVD and its cuts cost ``O((d_out + d_in) S^2 + S^3)`` and never a ``d_out x d_in`` matrix, unless the
stacked rank S is above ``min(d_out, d_in)``. A method is a function of the finished stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank import lowrank
from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Partial
from polyrank.aggregation.updates import DenseMean, check_update, dump_sums, restore_sums, taken, weight_of
from polyrank.errors import AdapterError
from polyrank.seeds import torch_generator
from polyrank.state import ClientUpdate, ServerState

Product = tuple[Tensor, Tensor]
"""``(a, b)``, standing for ``b @ a`` with scale 1."""


@dataclass(frozen=True, eq=False)
class Term:
    """One client's factors of one module, and its weight ``w_k``."""

    client: str
    weight: float
    factors: Factors


@dataclass(frozen=True, eq=False)
class Stack:
    """The terms of one module, in the order of the clients' names, beside the server's own factors.

    Args:
        name: the module.
        terms: at least one.
        previous: the global factors before the round.
    """

    name: str
    terms: tuple[Term, ...]
    previous: Factors

    @property
    def weight(self) -> float:
        """``W``, of the clients that have this module."""
        return sum(term.weight for term in self.terms)

    def mean(self) -> Product:
        """``delta* = sum_k p_k s_k B_k A_k``, stacked."""
        return lowrank.stack(self.mean_terms())

    def mean_terms(self) -> list[tuple[float, Tensor, Tensor]]:
        """The terms of `mean`, for `lowrank.stack`."""
        total = self.weight
        return [(t.weight / total * t.factors.scale, t.factors.a, t.factors.b) for t in self.terms]

    def owned(self) -> Tensor:
        """``W(j)`` for every rank index j of the server, ``(R,)`` in float64."""
        owned = torch.zeros(self.previous.rank, dtype=torch.float64)
        for term in self.terms:
            owned[: term.factors.rank] += term.weight
        return owned


class ProductSum:
    """The accumulator of every method of kernel 2; its memory grows with the sum of the ranks.

    Args:
        server: the state before the round.
        conclude: the stacks by module -> new factors by module, new base change and metrics.
        compress: off at None. Else a stack is cut on the way, whenever its rank passes ``min(d_out, d_in)``, to the
            singular values whose rest has at most this share of its norm: the memory no longer grows. Only for methods
            that need nothing but the mean of the products.
    """

    def __init__(
        self,
        server: ServerState,
        conclude: Callable[[Mapping[str, Stack]], Aggregate],
        *,
        compress: float | None = None,
    ) -> None:
        self._server = server
        self._conclude = conclude
        self._compress = compress
        self._terms: dict[str, list[Term]] = {name: [] for name in server.adapter.modules}
        self._dense = DenseMean(server.adapter)

    def add(self, update: ClientUpdate) -> None:
        """Keep one update's factors.

        Raises:
            AdapterError: as `check_update`; nothing of the update has been kept then.
        """
        check_update(update, self._server.adapter)
        if update.weight == 0:
            return
        for name, factors in update.adapter.modules.items():
            # a copy: the caller may go on with the memory of its update
            self._terms[name].append(Term(update.client, update.weight, factors.map(torch.clone)))
            self._shrink(name)
        self._dense.add(update, update.weight)

    def merge(self, other: ProductSum) -> None:
        """Keep what another accumulator of the same round has kept."""
        for name, terms in self._terms.items():
            terms.extend(other._terms[name])
            self._shrink(name)
        self._dense.merge(other._dense)

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`: every client's factors, or what ``compress`` has left of them."""
        modules: dict[str, Partial] = {}
        for name, terms in self._terms.items():
            about = {"terms": [[term.client, term.weight, term.factors.scale] for term in terms]}
            tensors = {f"{i}.{x}": getattr(term.factors, x) for i, term in enumerate(terms) for x in "ab"}
            modules[name] = Partial(about, tensors)
        return dump_sums(modules, self._dense)

    def restore(self, partial: Partial) -> None:
        """As `polyrank.aggregation.method.Portable`."""

        def module(name: str, own: Partial) -> None:
            self._terms[name].extend(_terms_of(own, self._server.adapter.modules[name]))

        restore_sums(partial, self._terms, module, self._dense)

    def finish(self) -> Aggregate:
        """What the method makes of the stacks; a module that nobody sent keeps its factors."""
        previous = self._server.adapter.modules
        stacks = {name: self._stack(name) for name, terms in self._terms.items() if terms}
        dense = self._dense.finish()
        if not stacks:
            return Aggregate(Adapter(previous, dense), self._server.base_change)
        result = self._conclude(stacks)
        modules = {name: result.adapter.modules.get(name, factors) for name, factors in previous.items()}
        return Aggregate(Adapter(modules, dense), result.base_change, result.metrics)

    def _stack(self, name: str) -> Stack:
        terms = sorted(self._terms[name], key=lambda term: term.client)
        return Stack(name, tuple(terms), self._server.adapter.modules[name])

    def _shrink(self, name: str) -> None:
        previous, terms = self._server.adapter.modules[name], self._terms[name]
        stacked = sum(term.factors.rank for term in terms)
        if self._compress is None or stacked <= min(previous.d_out, previous.d_in):
            return
        stack = self._stack(name)
        a, b = stack.mean()
        u, s, vt = lowrank.svd(a, b)
        rest = torch.linalg.norm(s) * self._compress
        tails = s.flip(0).square().cumsum(0).flip(0).sqrt()  # tails[p]: norm of what is lost when p values stay
        kept = max(int((tails > rest).sum()), 1)
        cut = Factors(vt[:kept], u[:, :kept] * s[:kept])
        self._terms[name] = [Term(stack.terms[0].client, stack.weight, cut)]


def _terms_of(partial: Partial, previous: Factors) -> list[Term]:
    listed = partial.about.get("terms")
    if not isinstance(listed, list):
        raise AdapterError(f"the sums have {listed!r} where a list of terms is expected")
    terms: list[Term] = []
    for i, about in enumerate(listed):
        match about:
            case [str(client), int() | float() as weight, int() | float() as scale] if weight > 0:
                pass
            case _:
                raise AdapterError(f"the sums have the term {about!r}; expected a client, its weight and its scale")
        a, b = (partial.tensors.get(f"{i}.{x}") for x in "ab")
        if a is None or b is None or a.ndim != 2 or not a.is_floating_point() or b.dtype != a.dtype:
            raise AdapterError(f"the sums lack the factors of client {client}, or they are no matrices")
        a = taken(partial, f"{i}.a", (a.shape[0], previous.d_in), a.dtype)
        b = taken(partial, f"{i}.b", (previous.d_out, a.shape[0]), a.dtype)
        terms.append(Term(client, weight_of({client: weight}, client), Factors(a, b, float(scale))))
    return terms


def cut(product: Product, like: Factors, *, balanced: bool = False) -> Factors:
    """The best approximation of ``b @ a`` at the rank, scale and dtype of ``like``: ``a = V^T``, ``b = U S / s``.

    With ``balanced`` the roots of the singular values go on both sides. The first r rank indices are the best
    approximation of rank r. A rank index beyond the product's own rank has zero in B but never in A: beyond the stack
    it keeps A's row of ``like``, as a row that is zero in both would never learn again.
    """
    a, b = lowrank.truncate(*product, like.rank)
    if balanced:
        sizes = torch.linalg.norm(b, dim=0)
        rounding = torch.finfo(b.dtype).eps * max(like.d_in, like.d_out) * sizes[:1]
        root = torch.where(sizes > rounding, sizes, torch.ones_like(sizes)).sqrt()
        a, b = a * root[:, None], b / root
    a = torch.where(a.any(dim=1, keepdim=True), a, like.a.to(a.dtype))
    return Factors(a.to(like.a.dtype), (b / like.scale).to(like.b.dtype), like.scale)


def fresh(server: ServerState, names: Iterable[str]) -> dict[str, Factors]:
    """Factors to start anew from: A Kaiming-uniform from (seed, round, module), the same for all clients; B zero.

    Args:
        server: the state before the round.
        names: of the modules whose products are in the base change from now on.
    """
    modules: dict[str, Factors] = {}
    for name in names:
        factors = server.adapter.modules[name]
        generator = torch_generator(server.seed, "fresh adapter", server.round + 1, name)
        bound = 1 / factors.d_in**0.5  # Kaiming-uniform with a = sqrt(5), as LoRA's A starts
        a = (2 * torch.rand(factors.a.shape, generator=generator) - 1) * bound
        modules[name] = Factors(a.to(factors.a.dtype), torch.zeros_like(factors.b), factors.scale)
    return modules
