"""What one client can change in the sum, by brute force, and what the noise on it comes to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from polyrank import aggregation
from polyrank.aggregation import Method
from polyrank.aggregation.sums import Sums
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation import tree
from polyrank.federation.round import as_received
from polyrank.privacy import Central
from polyrank.privacy.central import CLIP, WITHIN, CentralKernel, split_noise, values

RANKS = {"ann": 2, "bob": 5, "cem": 5, "dee": 7, "eve": 7}
SCALES = {"ann": 2.0, "bob": 0.5, "cem": 2.0, "dee": 1.0, "eve": 3.0}
SHAPES = {"q": (4, 6), "v": (5, 3)}
METHODS = {
    **{name: {} for name in ("zero_padding", "zero_padding_delta", "owner_mean", "tempered", "ffa", "fedsvd", "fedsa")},
    "replication": {},
    "rolora": {},
    "owner_mean align": {"align": "rotation"},
    "replication owners": {"donor": "owners", "min_owners": 2},
}


def built(name: str) -> Method:
    return aggregation.build(name.split(maxsplit=1)[0], METHODS[name])


def numbers(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(generator.standard_normal(shape))


def adapter(generator: np.random.Generator, rank: int, scale: float, size: float = 1.0) -> Adapter:
    modules = {
        name: Factors(size * numbers(generator, rank, d_in), size * numbers(generator, d_out, rank), scale)
        for name, (d_out, d_in) in SHAPES.items()
    }
    return Adapter(modules, {"head": size * numbers(generator, 3, 4)})


def server(seed: int = 0) -> ServerState:
    return ServerState(1, adapter(np.random.default_rng(seed), 7, 1.5), RANKS, SCALES)


def private(method: Method, **others: object) -> Central:
    return Central(method, **{"clip": 0.7, "noise": 1.0, "share": 0.5, "secret": "of the tests", **others})  # type: ignore[arg-type]


def update(  # noqa: PLR0917
    state: ServerState, method: Method, client: str, seed: int, size: float, weight: float = 1.0
) -> ClientUpdate:
    """Trained at the client's own rank and scale; what the method does not send is what it was sent."""
    start = method.read_out(state, state.ranks[client], client).adapter
    modules = {name: factors.rescaled(state.scales[client]) for name, factors in start.modules.items()}
    start = Adapter(modules, state.adapter.dense)
    moved = adapter(np.random.default_rng(seed), state.ranks[client], state.scales[client], size)
    changed = {name: tensor + dict(moved.tensors())[name] for name, tensor in start.tensors()}
    sends = method.parts(state.round + 1).sends
    return as_received(ClientUpdate(client, start.replaced(changed), weight), start, sends)


def size_of(sums: Sums) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in values(sums).values()))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("whole", [None, 8])
def test_no_client_changes_the_sum_by_more_than_the_bound(name: str, size: float, whole: int | None):
    method, state = built(name), server()
    kernel = CentralKernel(state, private(method, most_examples=whole))
    for client in RANKS:
        weight = 1.0 if whole is None else 20.0
        own = kernel.contribution(update(state, method, client, 5, size, weight))
        without, others = kernel.empty(), [other for other in RANKS if other != client]
        for other in others:
            without = kernel.fold(without, update(state, method, other, 6, size, weight))
        whole_sum = without + own
        moved = Sums({n: whole_sum.tensors[n] - without.tensors[n] for n in whole_sum.tensors})
        assert size_of(moved) <= 0.7 * (1 + 1e-9)
        assert not any(bool(t.any()) for n, t in own.tensors.items() if n not in values(own))  # nor who owns what
        if size >= 1.0:
            assert size_of(own) == pytest.approx(0.7, rel=1e-6)


@given(seed=st.integers(0, 2**20), size=st.floats(0, 100), weight=st.floats(0, 50), name=st.sampled_from(list(METHODS)))
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_for_any_update(seed: int, size: float, weight: float, name: str):
    method, state = built(name), server(1)
    kernel = CentralKernel(state, private(method, most_examples=10))
    client = sorted(RANKS)[seed % len(RANKS)]
    own = kernel.contribution(update(state, method, client, seed, size, weight))
    assert size_of(own) <= 0.7 * min(weight / 10, 1.0) * (1 + 1e-9)


def test_a_change_within_the_bound_is_as_it_is_at_the_global_scale():
    method, state = built("owner_mean"), server()
    kernel = CentralKernel(state, private(method, clip=1e9))
    sent = update(state, method, "bob", 3, 1.0)
    own = kernel.contribution(sent)
    for name, before in state.adapter.modules.items():
        at_scale = sent.adapter.modules[name].rescaled(before.scale)
        bank = f"modules/{name}/others/"
        np.testing.assert_allclose(own.tensors[f"{bank}a"][:5], at_scale.a - before.a[:5], atol=1e-12)
        np.testing.assert_allclose(own.tensors[f"{bank}b"][:, :5], at_scale.b - before.b[:, :5], atol=1e-12)
        assert not own.tensors[f"{bank}a"][5:].any()
    np.testing.assert_allclose(own.tensors["dense/head/sum"], sent.adapter.dense["head"] - state.adapter.dense["head"])


def quiet(method: Method, **others: object) -> Central:
    """Without noise, so that what is left is the expected denominator."""
    return private(method, **{"noise": 1e-12, "clip": 1e9, **others})


@pytest.mark.parametrize("name", [n for n in METHODS if n != "owner_mean align"])
def test_with_everybody_there_and_hardly_any_noise_it_is_the_method(name: str):
    method, state = built(name), server()
    updates = [update(state, method, client, i, 0.3) for i, client in enumerate(RANKS)]
    plain = tree.aggregate(state, updates, method, uniform=True).state.adapter
    hidden = tree.aggregate(state, updates, quiet(method, share=1.0), uniform=True).state.adapter
    for (key, expected), (_, found) in zip(plain.tensors(), hidden.tensors(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-2, err_msg=key)  # 1e9 * 1e-12 of noise


def test_the_denominator_is_what_is_expected_and_not_who_came():
    method, state = built("owner_mean"), server()
    (one,) = [update(state, method, "bob", 1, 0.3)]
    found = tree.aggregate(state, [one], quiet(method, share=0.5, clip=1.0), uniform=True).state.adapter
    for name, before in state.adapter.modules.items():
        change = one.adapter.modules[name].rescaled(before.scale).a - before.a[:5]
        size = size_of(CentralKernel(state, quiet(method, clip=1e9)).contribution(one))
        owners = torch.tensor([5.0] * 2 + [4.0] * 3)[:, None]  # of all clients, half of whom are expected
        expected = before.a[:5] + change * min(1.0, 1.0 / size) / (0.5 * owners)
        np.testing.assert_allclose(found.modules[name].a[:5], expected, atol=1e-9)


def test_a_round_without_anybody_is_noised_too():
    method, state = built("owner_mean"), server()
    found = tree.aggregate(state, [], private(method))
    assert found.state.round == 2
    assert any(
        not torch.equal(new, old)
        for (_, new), (_, old) in zip(found.state.adapter.tensors(), state.adapter.tensors(), strict=True)
    )


def test_the_noise_has_the_scale_that_the_accounting_assumes():
    """Of 18,000 values; a test of Kolmogorov and Smirnov that fails in one of 10,000 draws, and these are seeded."""
    drawn = []
    method = built("owner_mean")
    for number in range(1, 140):
        state = replace(server(), round=number)
        kernel = CentralKernel(state, private(method, clip=0.7, noise=2.0, share=1.0))
        before = {n: f.a.clone() for n, f in state.adapter.modules.items()}
        result = kernel.conclude(kernel.empty())
        for name, factors in result.adapter.modules.items():
            owners = torch.tensor([5.0] * 2 + [4.0] * 3 + [2.0] * 2)[:, None]
            drawn.append(((factors.a - before[name]) * owners / (2.0 * 0.7)).flatten())
    found = torch.cat(drawn).numpy()
    assert len(found) > 8000
    assert stats.kstest(found, "norm").pvalue > 1e-4  # at the rows of two owners as at those of five
    assert np.std(found) == pytest.approx(1.0, rel=0.04)


def test_the_noise_follows_a_bound_that_moved():
    """Twice the bound, twice the noise, of the same draws."""
    method, state = built("owner_mean"), server()

    def noised(bound: float) -> torch.Tensor:
        before = replace(state, memory={CLIP: torch.tensor([bound], dtype=torch.float64)})
        found = tree.aggregate(before, [], private(method, quantile=0.5)).state.adapter
        return found.modules["q"].a - state.adapter.modules["q"].a

    np.testing.assert_allclose(noised(2.0), 2 * noised(1.0), rtol=1e-9)


def test_equal_secrets_give_equal_noise_and_others_do_not():
    method, state = built("ffa"), server()

    def noised(secret: str, number: int = 1) -> torch.Tensor:
        before = replace(state, round=number)
        return tree.aggregate(before, [], private(method, secret=secret)).state.adapter.modules["q"].b

    assert torch.equal(noised("a"), noised("a"))
    assert not torch.equal(noised("a"), noised("b"))
    assert not torch.equal(noised("a", 1), noised("a", 2))
    with pytest.raises(ValueError, match="without a secret"):
        noised("")


def test_the_bound_follows_its_quantile():
    """With all changes of norm 10 above a bound of 1 it rises, and above them it falls."""
    method, state = built("owner_mean"), server()
    bounds = [1.0]
    for number in range(1, 60):
        before = replace(state, round=number, memory={CLIP: torch.tensor([bounds[-1]], dtype=torch.float64)})
        updates = [update(before, method, client, 1, 0.5) for client in RANKS]
        wrapped = private(method, clip=1.0, noise=0.01, share=1.0, quantile=0.5)
        found = tree.aggregate(before, updates, wrapped, uniform=True)
        assert found.metrics["clip"] == bounds[-1]
        bounds.append(float(found.state.memory[CLIP]))
    norms = [size_of(CentralKernel(state, private(method, clip=1e9)).contribution(u)) for u in updates]
    assert min(norms) * 0.8 < bounds[-1] < max(norms) * 1.2


def test_the_noise_of_an_adaptive_bound_costs_what_it_says():
    on_sum, on_count = split_noise(1.3, 100, adaptive=True)
    assert on_count == 5.0
    assert on_sum**-2 + (2 * on_count) ** -2 == pytest.approx(1.3**-2)
    assert split_noise(1.3, 100, adaptive=False) == (1.3, 0.0)
    assert split_noise(30.0, 10, adaptive=True)[0] == pytest.approx(30 * (4 / 3) ** 0.5)


def test_sums_of_edges_are_added_as_they_are():
    """A tree of two edges gives the flat round's result; the root alone draws noise."""
    method, state = private(built("replication"), quantile=0.5), server()
    updates = [update(state, method.method, client, i, 0.3) for i, client in enumerate(RANKS)]
    flat = tree.aggregate(state, updates, method, uniform=True)
    edges = [tree.Node(state, method, RANKS, uniform=True) for _ in range(2)]
    for i, one in enumerate(updates):
        edges[i % 2].add(one)
    root = tree.Node(state, method, RANKS, uniform=True)
    for edge in edges:
        packed = edge.pack()
        assert b"of the tests" not in packed  # the secret
        root.fold(packed)
    found = root.finish()
    for (key, one), (_, other) in zip(flat.state.adapter.tensors(), found.state.adapter.tensors(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9, err_msg=key)
    assert float(found.state.memory[CLIP]) == float(flat.state.memory[CLIP])
    assert WITHIN in method.start(state, {}).empty().tensors


def test_what_was_not_sent_to_the_client_is_refused():
    method, state = built("owner_mean"), server()
    kernel = CentralKernel(state, private(method))
    of_another = replace(update(state, method, "ann", 1, 1.0), client="bob")
    with pytest.raises(AdapterError, match=r"bob sent q\.a as \(2, 6\); expected \(5, 6\)"):
        kernel.contribution(of_another)
    with pytest.raises(AdapterError, match="zoe has no rank"):
        kernel.contribution(replace(of_another, client="zoe"))
