"""Kernel 2: sums of the clients' products ``s_k B_k A_k``, kept as stacked factors.

``sum_k c_k s_k B_k A_k`` is one product of stacked factors whose rank is the sum of the ranks, so the mean of the
products, its SVD and its cuts cost ``O((d_out + d_in) S^2 + S^3)`` and never a ``d_out x d_in`` matrix, unless the
stacked rank S is above ``min(d_out, d_in)``. A method is a function of the finished stacks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch

from polyrank.aggregation.kernels import dense
from polyrank.aggregation.kernels.stacks import Product, Stack, Stacks, Term
from polyrank.aggregation.kernels.updates import check_update
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method
from polyrank.aggregation.sums import Partial, Sums, check_names, taken
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.seeds import torch_generator
from polyrank.core.state import ClientUpdate, ServerState


class ProductMethod(Method):
    """A method on products: a subclass says what becomes of the stacks."""

    compress: float | None = None

    @abstractmethod
    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        """New factors by module, new base change and metrics; dense tensors are averaged beside."""

    def start(self, server: ServerState, levels: Levels) -> Products:  # noqa: ARG002  # any ranks
        return Products(server, self, self.compress)


class Products(Kernel[Stacks]):
    """The kernel of every method on products.

    Args:
        server: the state before the round.
        method: what it does with the stacks.
        compress: off at None. Else a stack is cut on the way, whenever its rank passes ``min(d_out, d_in)``, to the
            singular values whose rest has at most this share of its norm: the memory no longer grows. Only for methods
            that need nothing but the mean of the products.
    """

    def __init__(self, server: ServerState, method: ProductMethod, compress: float | None) -> None:
        self.server, self.method, self.compress = server, method, compress

    def empty(self) -> Stacks:
        adapter = self.server.adapter
        return Stacks({name: [] for name in adapter.modules}, Sums(dense.empty(adapter)), self.compress)

    def check(self, update: ClientUpdate) -> None:
        check_update(update, self.server.adapter)

    def fold(self, sums: Stacks, update: ClientUpdate) -> Stacks:
        self.check(update)
        if update.weight == 0:
            return sums
        for name, factors in update.adapter.modules.items():
            # a copy: the caller may go on with the memory of its update
            sums.terms[name].append(Term(update.client, update.weight, factors.map(torch.clone)))
        dense.add(sums.dense, update, update.weight)
        return sums.shrunk()

    def received(self, partial: Partial) -> Stacks:
        about = partial.about.get("terms")
        if not isinstance(about, Mapping):
            raise AdapterError("the sums do not say which terms they have; expected those of a method on products")
        modules = self.server.adapter.modules
        check_names("modules", about, modules)
        terms = {name: _terms_of(name, about[name], partial, factors) for name, factors in modules.items()}
        others = {name: tensor for name, tensor in partial.tensors.items() if not name.startswith("terms/")}
        found = Sums(dense.empty(self.server.adapter)).like(Partial(others))
        return Stacks(terms, found, self.compress)

    def conclude(self, sums: Stacks) -> Aggregate:
        """What the method makes of the stacks; a module that nobody sent keeps its factors."""
        previous = self.server.adapter.modules
        stacks = {
            name: Stack(name, tuple(sorted(terms, key=lambda term: term.client)), previous[name])
            for name, terms in sums.terms.items()
            if terms
        }
        means = dense.means(sums.dense, self.server.adapter)
        if not stacks:
            return Aggregate(Adapter(previous, means), self.server.base_change)
        result = self.method.combine(self.server, stacks)
        modules = {name: result.adapter.modules.get(name, factors) for name, factors in previous.items()}
        return Aggregate(Adapter(modules, means), result.base_change, result.metrics)


def _terms_of(name: str, listed: object, partial: Partial, previous: Factors) -> list[Term]:
    """The terms of one module, checked.

    Raises:
        AdapterError: they are no terms, or a tensor is missing, of another shape or not finite; the module is named.
    """
    if not isinstance(listed, list):
        raise AdapterError(f"{name}: the sums have {listed!r} where a list of terms is expected")
    terms: list[Term] = []
    for i, about in enumerate(listed):
        match about:
            case [str(client), int() | float() as weight, int() | float() as scale] if (
                0 < weight < math.inf and math.isfinite(scale) and not isinstance(weight, bool)
            ):
                pass
            case _:
                raise AdapterError(
                    f"{name}: the sums have the term {about!r}; expected a client, its weight and its scale"
                )
        keys = [f"terms/{name}/{i}.{x}" for x in "ab"]
        a, b = (partial.tensors.get(key) for key in keys)
        if a is None or b is None or a.ndim != 2 or not a.is_floating_point() or b.dtype != a.dtype:
            raise AdapterError(f"{name}: the sums lack the factors of client {client}, or they are no matrices")
        a = taken(partial, keys[0], (a.shape[0], previous.d_in), a.dtype)
        b = taken(partial, keys[1], (previous.d_out, a.shape[0]), a.dtype)
        terms.append(Term(client, float(weight), Factors(a, b, float(scale))))
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


def factored_anew(adapter: Adapter, before: Adapter) -> Adapter:
    """The same products as ``A = V^T`` and ``B = U S / s``, for the modules whose factors are not those of ``before``.

    A product of zero keeps its random A. The first r rank indices are then the best approximation of rank r.
    """
    modules = {
        name: f
        if f is before.modules[name] or not bool(f.b.any())
        else cut((f.a, f.b.to(lowrank.wide(f.b.dtype)) * f.scale), f)
        for name, f in adapter.modules.items()
    }
    return Adapter(modules, adapter.dense)


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
