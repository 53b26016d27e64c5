"""The kernel by itself; what all its methods share is in tests/conformance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyrank.aggregation import METHODS, Aggregate, build
from polyrank.aggregation.kernels.products import ProductMethod, cut, fresh
from polyrank.aggregation.kernels.stacks import Stack, Term
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Adding

PRODUCTS = ("flora", "flexlora", "raflora", "spectral", "florist", "fedhl", "fedex", "lora_fair")


def _normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def _factors(seed: int, rank: int, scale: float = 1.0, d_out: int = 7, d_in: int = 9) -> Factors:
    return Factors(_normal(seed, rank, d_in), _normal(seed + 1000, d_out, rank), scale)


def _server(rank: int = 4, *names: str) -> ServerState:
    modules = {name: _factors(50 + k, rank, 2.0) for k, name in enumerate(names or ("m",))}
    return ServerState(3, Adapter(modules), {}, {}, seed=11)


def _dense(f: Factors) -> np.ndarray:
    return f.scale * (f.b.double().numpy() @ f.a.double().numpy())


_clients = st.lists(
    st.tuples(st.floats(0.01, 100), st.integers(1, 4), st.sampled_from([-1.0, 0.5, 3.0])), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=50)
@given(clients=_clients, seed=st.integers(0, 99))
def test_a_stack_is_the_mean_of_the_products(clients: list[tuple[float, int, float]], seed: int):
    """Ranks add up; ``W`` and ``W(j)`` are sums over the owners; negative scales too."""
    terms = [Term(f"client {k}", w, _factors(seed + k, r, s)) for k, (w, r, s) in enumerate(clients)]
    stack = Stack("m", tuple(terms), _factors(0, 4))
    total = sum(w for w, _, _ in clients)
    assert stack.weight == pytest.approx(total, rel=1e-14)
    a, b = stack.mean()
    assert a.shape[0] == sum(r for _, r, _ in clients)
    wanted = sum(t.weight / total * _dense(t.factors) for t in terms)
    np.testing.assert_allclose(b.numpy() @ a.numpy(), wanted, atol=1e-11)
    owned = [sum(w for w, r, _ in clients if r > j) for j in range(4)]
    np.testing.assert_allclose(stack.owned(), owned, rtol=1e-14)


class Looking(ProductMethod):
    """A method that shows its stacks."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Stack]] = []

    def combine(self, _server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        self.seen.append(stacks)
        return Aggregate(Adapter({name: stack.previous for name, stack in stacks.items()}), None, {"seen": 1.0})


def _look(server: ServerState) -> tuple[Adding, list[Mapping[str, Stack]]]:
    method = Looking()
    return Adding(method, server), method.seen


def test_terms_come_in_the_order_of_the_clients_names():
    server = _server()
    accumulator, seen = _look(server)
    other, _ = _look(server)
    for part, names in ((accumulator, "db"), (other, "ca")):
        for name in names:
            part.add(ClientUpdate(name, Adapter({"m": _factors(ord(name), 2)}), 1.0))
    accumulator.merge(other)
    result = accumulator.finish()
    (stacks,) = seen
    assert [term.client for term in stacks["m"].terms] == list("abcd")
    assert stacks["m"].previous is server.adapter.modules["m"]
    assert result.metrics == {"seen": 1.0}


def test_a_client_of_weight_zero_is_no_term():
    accumulator, seen = _look(_server())
    accumulator.add(ClientUpdate("ann", Adapter({"m": _factors(0, 2)}), 0.0))
    accumulator.add(ClientUpdate("bob", Adapter({"m": _factors(0, 2)}), 1.0))
    accumulator.finish()
    assert [term.client for term in seen[0]["m"].terms] == ["bob"]


def test_an_update_is_copied():
    """Its memory may be the model's, which goes on to the next client."""
    accumulator, seen = _look(_server())
    factors = _factors(0, 2)
    wanted = factors.map(torch.clone)
    accumulator.add(ClientUpdate("ann", Adapter({"m": factors}), 1.0))
    factors.a.fill_(9.0)
    factors.b.fill_(9.0)
    accumulator.finish()
    (term,) = seen[0]["m"].terms
    assert torch.equal(term.factors.a, wanted.a)
    assert torch.equal(term.factors.b, wanted.b)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_module_that_nobody_sent_keeps_its_factors(name: str):
    """To the last bit, its product and its base change included: q is trained, v is not."""
    server = _server(4, "q", "v")
    change = Adapter({"v": _factors(5, 2)})
    server = ServerState(3, server.adapter, {}, {}, base_change=change)
    accumulator = Adding(build(name), server)
    accumulator.add(ClientUpdate("ann", Adapter({"q": _factors(6, 3)}), 1.0))
    result = accumulator.finish()
    assert torch.equal(result.adapter.modules["v"].a, server.adapter.modules["v"].a)
    assert torch.equal(result.adapter.modules["v"].b, server.adapter.modules["v"].b)
    assert result.base_change is not None
    torch.testing.assert_close(result.base_change.modules["v"].delta(), change.modules["v"].delta())
    assert not torch.equal(result.adapter.modules["q"].b, server.adapter.modules["q"].b)


@pytest.mark.parametrize("name", [name for name in PRODUCTS if name != "fedhl"])
def test_a_module_is_averaged_over_the_clients_that_have_it(name: str):
    """Weights 3 and 1, but v comes from the second alone: for v the result is as if it had been the only client.

    Not so in fedhl, whose weights are those of clients, over all layers.
    """
    server = _server(4, "q", "v")
    both = ClientUpdate("bob", Adapter({"q": _factors(6, 4), "v": _factors(7, 4)}), 1.0)
    results = []
    for first in ((ClientUpdate("ann", Adapter({"q": _factors(8, 2)}), 3.0),), ()):
        accumulator = Adding(build(name), server)
        for update in (*first, both):
            accumulator.add(update)
        results.append(accumulator.finish())
    with_first, alone = results
    torch.testing.assert_close(with_first.adapter.modules["v"].delta(), alone.adapter.modules["v"].delta())
    if alone.base_change is not None and with_first.base_change is not None:
        change = with_first.base_change.modules["v"].delta()
        torch.testing.assert_close(change, alone.base_change.modules["v"].delta(), atol=1e-9, rtol=0)


def test_products_are_those_of_this_kernel():
    for name in METHODS:
        assert isinstance(build(name), ProductMethod) == (name in PRODUCTS)


@settings(deadline=None, max_examples=60)
@given(
    ranks=st.tuples(st.integers(1, 10), st.integers(1, 9)),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scale=st.sampled_from([-2.0, 0.5, 1.0]),
    balanced=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_cut_is_the_best_approximation(
    ranks: tuple[int, int], shape: tuple[int, int], scale: float, balanced: bool, seed: int
):
    """At the rank and scale of its model, both for stacks above and below the layer's sides; no row of A is zero."""
    (stacked, rank), (d_out, d_in) = ranks, shape
    product = _factors(seed, stacked, 1.0, d_out, d_in)
    like = _factors(seed + 1, rank, scale, d_out, d_in)
    found = cut((product.a, product.b), like, balanced=balanced)
    assert (found.rank, found.scale, found.a.dtype) == (rank, scale, like.a.dtype)
    dense = _dense(product)
    s = np.linalg.svd(dense, compute_uv=False)
    gap = np.linalg.norm(_dense(found) - dense)
    assert gap == pytest.approx(np.linalg.norm(s[rank:]), abs=1e-9 * (1 + s[0]))
    assert bool(found.a.any(dim=1).all())


def test_a_cut_by_hand():
    """Singular values 8 and 2 at scale 2: B's columns are 4 and 1 long; balanced, A's rows are sqrt(8) and sqrt(2)."""
    product = torch.eye(2), torch.diag(torch.tensor([2.0, 8.0]))
    like = Factors(torch.ones(2, 2), torch.ones(2, 2), 2.0)
    plain, balanced = cut(product, like), cut(product, like, balanced=True)
    torch.testing.assert_close(plain.a, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(plain.b, torch.tensor([[0.0, 1.0], [4.0, 0.0]]))
    torch.testing.assert_close(balanced.a, torch.tensor([[0.0, 8.0**0.5], [2.0**0.5, 0.0]]))
    torch.testing.assert_close(balanced.b, torch.tensor([[0.0, 2.0**0.5 / 2], [8.0**0.5 / 2, 0.0]]))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_rank_index_beyond_the_product_can_still_learn(balanced: bool):
    """A stack of 2 for a rank of 4: rows 2 and 3 of A are the previous ones, B's columns 0."""
    product, like = _factors(0, 2), _factors(1, 4, 2.0)
    found = cut((product.a, product.b), like, balanced=balanced)
    assert torch.equal(found.a[2:], like.a[2:])
    assert not found.b[:, 2:].any()
    np.testing.assert_allclose(_dense(found), _dense(product), atol=1e-12)


def test_a_balanced_cut_leaves_rows_of_singular_value_zero_alive():
    """Three stacked rows of rank 1: with the root of 0 on both sides rows 1 and 2 would be lost; A's are unit rows."""
    row = _factors(0, 1)
    product = torch.cat([row.a] * 3), torch.cat([row.b] * 3, dim=1)
    found = cut(product, _factors(1, 3), balanced=True)
    torch.testing.assert_close(found.a[1:].norm(dim=1), torch.ones(2).double())
    np.testing.assert_allclose(_dense(found), 3 * _dense(row), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_cut_has_the_dtype_of_its_model(dtype: torch.dtype):
    like = _factors(1, 4).map(lambda t: t.to(dtype))
    product = _factors(0, 6).map(lambda t: t.float())
    assert {cut((product.a, product.b), like).a.dtype, cut((product.a, product.b), like).b.dtype} == {dtype}


def test_fresh_factors():
    """B zero; A within 1 / sqrt(d_in) and over all of it; the same again from the same seed, round and module only."""
    wide = ServerState(
        3, Adapter({n: Factors(torch.ones(20, 100), torch.ones(4, 20), 2.0) for n in "qv"}), {}, {}, seed=11
    )
    one, again = fresh(wide, "qv"), fresh(wide, "vq")
    for name, factors in one.items():
        assert torch.equal(factors.a, again[name].a)
        assert not factors.b.any()
        assert factors.scale == 2.0
        assert 0.099 < float(factors.a.max()) <= 0.1
        assert -0.1 <= float(factors.a.min()) < -0.099
        assert float(factors.a.var()) == pytest.approx(0.1**2 / 3, rel=0.1)
    others = [one["v"], *(fresh(ServerState(r, wide.adapter, {}, {}, seed=s), "q")["q"] for r, s in ((4, 11), (3, 12)))]
    assert not any(torch.equal(one["q"].a, other.a) for other in others)
    assert list(fresh(wide, ["v"])) == ["v"]


def test_fresh_factors_have_the_servers_dtype():
    half = ServerState(0, _server().adapter.map(lambda t: t.to(torch.bfloat16)), {}, {})
    assert {t.dtype for f in fresh(half, ["m"]).values() for t in (f.a, f.b)} == {torch.bfloat16}
