"""Every aggregation method of the registry against every property that all of them share.

A new method is picked up from `polyrank.aggregation.METHODS`; it fails here until it has an entry in `oracle.ORACLES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.aggregation import METHODS, Aggregate, build, options
from polyrank.aggregation.kernels.products import ProductMethod
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.compare import exactly_the_same_factors, same, same_model
from tests.conformance.fixtures import (
    DTYPES,
    EQUAL,
    EQUAL_HARD,
    HARD,
    UNEQUAL,
    Adding,
    Member,
    Round,
    after_others,
    as_trained,
    conclude,
    equal_ranks,
    lone,
    make,
)
from tests.conformance.oracle import ORACLES, Model, Oracle, dense_base, model, target

_MISSING = (
    "the method {0!r} is in the registry but has no dense oracle: write it from its formula, in numpy with loops, in "
    "tests/conformance/oracle.py and add {0!r} to ORACLES there"
)


class Variant:
    """A method with one choice of its options."""

    def __init__(self, name: str, values: dict[str, object]) -> None:
        self.name, self.values = name, values
        self.method = build(name, values)
        self.info = METHODS[name].info
        self.by = ORACLES[name].by if name in ORACLES else "factors"

    @property
    def oracle(self) -> Oracle:
        if self.name not in ORACLES:
            pytest.fail(_MISSING.format(self.name))
        return ORACLES[self.name]

    @property
    def needs(self) -> int:
        """Owners without whom a row is kept."""
        return int(self.values.get("min_owners", 1))

    @property
    def sorts(self) -> bool:
        """Whether the order of clients does not matter to the last bit of a factor: products are summed by name."""
        return isinstance(self.method, ProductMethod) and "compress" not in self.values

    @property
    def exact(self) -> str:
        """What the method declares, unless an option asks for another thing."""
        if "max_rank" in self.values or self.values.get("fill") == "owners":
            return "no"
        return "yes" if self.values == {"tau": 1.0} else self.info.exact

    @property
    def cuts(self) -> bool:
        """Whether the products themselves are cut, below the global rank."""
        florist, spectral = self.name == "florist", self.name == "spectral"
        cut = (florist and self.values != {"tau": 1.0}) or (spectral and self.values != {"noise": 0.0})
        return cut or self.values == {"max_rank": 5}

    def rounds(self) -> Iterable[str]:
        return EQUAL if self.info.equal_ranks else EQUAL | UNEQUAL

    def hard(self) -> Iterable[str]:
        """The rounds that leave out nothing of what makes the others hard."""
        return EQUAL_HARD if self.info.equal_ranks else HARD

    def round(self) -> Round:
        """The hardest round that the method takes."""
        return equal_ranks() if self.info.equal_ranks else UNEQUAL["unowned_tail"](torch.float64)

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Aggregate:
        return conclude(self.method, server, updates)

    def expected(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Model:
        return self.oracle(server, updates, self.values)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.values.items())])


VARIANTS = [
    Variant(name, dict(values)) for name in METHODS for values in (ORACLES[name].variants if name in ORACLES else ({},))
]
DEFAULTS = pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.values], ids=str)
ONCE = [v for v in VARIANTS if v.name == "replication" or "align" not in v.values]
"""Alignment comes before a method and knows nothing of it (`Aligned`): all of its variants meet the oracle, those of
one method the properties."""
every_method = pytest.mark.parametrize("variant", ONCE, ids=str)


def _grid(rounds: Iterable[tuple[Variant, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("variant", "fixture"), [pytest.param(v, name, id=f"{v}-{name}") for v, name in rounds]
    )


every_round = _grid((v, name) for v in VARIANTS for name in v.rounds())
hard_rounds = _grid((v, name) for v in ONCE for name in v.hard())


def _round(name: str, dtype: torch.dtype = torch.float64) -> Round:
    return (EQUAL | UNEQUAL)[name](dtype)


@pytest.mark.parametrize("name", METHODS)
def test_has_an_oracle_that_tries_every_option(name: str):
    if name not in ORACLES:
        pytest.fail(_MISSING.format(name))
    tried = {key for values in ORACLES[name].variants for key in values}
    assert {} in ORACLES[name].variants
    assert tried == set(options(name)), "ORACLES[...].variants must try every option of the method"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_round
def test_equals_the_dense_oracle(variant: Variant, fixture: str, dtype: torch.dtype):
    given_round = _round(fixture, dtype)
    expected = variant.expected(given_round.server, given_round.updates)
    same_model(variant(given_round.server, given_round.updates), expected, variant.by, dtype)


_members = st.lists(
    st.builds(
        Member,
        name=st.uuids().map(str),
        weight=st.just(0.0) | st.floats(0.01, 1000),
        ranks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        scale=st.sampled_from([0.25, 1.0, 3.0]),
    ),
    max_size=5,
)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.info.equal_ranks], ids=str)
@settings(deadline=None, max_examples=10)
@given(members=_members, seed=st.integers(0, 99))
def test_equals_the_dense_oracle_for_any_clients(variant: Variant, members: list[Member], seed: int):
    some = make(members, 5, seed=seed)
    same_model(variant(some.server, some.updates), variant.expected(some.server, some.updates), variant.by)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fixture", ["few", "levels_after", "equal_after"])
@every_method
def test_keeps_names_shapes_scales_and_dtypes_of_the_server(variant: Variant, fixture: str, dtype: torch.dtype):
    given_round = _round(fixture if fixture in variant.rounds() else "equal_ranks", dtype)
    before = given_round.server.adapter
    result = variant(given_round.server, given_round.updates)
    after = result.adapter
    assert after.first_not_finite() is None
    assert after.modules.keys() == before.modules.keys()
    assert all(after.modules[name].rank <= before.modules[name].rank for name in before.modules)
    assert all(after.modules[name].scale == before.modules[name].scale for name in before.modules)
    assert {name: t.dtype for name, t in after.tensors()} == {name: t.dtype for name, t in before.tensors()}
    assert {name: t.shape for name, t in after.tensors()} == {name: t.shape for name, t in before.tensors()}
    if not variant.info.changes_base:
        assert result.base_change is given_round.server.base_change
    elif result.base_change is not None:
        assert not result.base_change.dense
        assert result.base_change.first_not_finite() is None
        for factors in result.base_change.modules.values():
            assert factors.rank <= min(factors.d_out, factors.d_in, variant.values.get("max_rank", 99))
            assert factors.a.dtype == factors.b.dtype == torch.promote_types(dtype, torch.float32)


@hard_rounds
def test_exactness_is_as_declared(variant: Variant, fixture: str):
    """The change of the global model against what the clients were sent is the mean of their products.

    Always for an exact method, and but for the singular values beyond R for one that is exact up to rank R. Of the
    others it is not the mean, or they should say so. A method that trains one factor is fed with rounds in which the
    other one is the server's.
    """
    it = as_trained(variant.method, _round(fixture))
    result, wanted = model(variant(it.server, it.updates)), target(it.updates)
    gaps = {}
    for module in wanted:
        gaps[module] = float(np.linalg.norm(result.change(module) - _sent(variant, it, module) - wanted[module]))
        size = np.linalg.norm(wanted[module])
        if variant.exact == "yes":
            assert gaps[module] < 1e-10 * size
        elif variant.exact == "up to rank R":
            dropped = np.linalg.svd(wanted[module], compute_uv=False)[it.server.adapter.modules[module].rank :]
            assert gaps[module] == pytest.approx(np.linalg.norm(dropped), abs=1e-10 * size)
    if fixture in ("equal_after", "levels_after") and variant.exact == "no":
        size = sum(np.linalg.norm(x) for x in wanted.values())
        assert sum(gaps.values()) > 1e-3 * size, "declare the method exact, or find what makes it agree"


def _sent(variant: Variant, it: Round, module: str) -> np.ndarray:
    """The weighted mean of the base changes that the clients were sent, each for its rank in this module."""
    total = sum(update.weight for update in it.updates)
    out = 0.0
    for update in it.updates:
        download = variant.method.read_out(it.server, update.adapter.modules[module].rank, update.client)
        out = out + update.weight / total * dense_base(it.server.adapter, download.base_change)[module]
    return np.asarray(out)


@pytest.mark.parametrize("base", [{}, {"layer.1.v": 3}, {"layer.0.q": 2, "layer.1.v": 3}], ids=len)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.needs <= 1 and not v.cuts], ids=str)
def test_one_client_of_full_rank_gives_itself_back(variant: Variant, base: dict[str, int]):
    """As its own factors where the method has factors of its own; else, and beside that, as the global model.

    FedSA shares A only, and FedHL's clients start without the base change, so they are not asked for the model.
    """
    alone = lone(6)
    alone = as_trained(variant.method, after_others(alone, base) if base else alone)
    own = alone.updates[0].adapter
    result = variant(alone.server, alone.updates)
    if variant.by == "factors" and "align" not in variant.values:
        before = alone.server.adapter.modules
        modules = {name: f.rescaled(before[name].scale) for name, f in own.modules.items()}
        if variant.name == "fedsa":
            modules = {name: replace(f, b=before[name].b) for name, f in modules.items()}
        same(result.adapter, replace(own, modules=modules))
    if variant.name != "fedsa" and not (variant.name == "fedhl" and base):
        found = model(result)
        for module in own.modules:
            mine = found.change(module) - dense_base(alone.server.adapter, alone.server.base_change)[module]
            np.testing.assert_allclose(mine, model(Aggregate(own)).change(module), atol=1e-10)
    for name, tensor in own.dense.items():
        torch.testing.assert_close(result.adapter.dense[name], tensor)


@hard_rounds
def test_order_of_clients_does_not_matter(variant: Variant, fixture: str):
    server, updates = (it := _round(fixture)).server, it.updates
    expected = variant(server, updates)
    for order in (
        updates[::-1],
        sorted(updates, key=lambda u: u.client),
        sorted(updates, key=lambda u: u.adapter.rank),
    ):
        result = variant(server, order)
        same_model(result, expected, variant.by)
        if variant.sorts:
            assert exactly_the_same_factors(result, expected)


@pytest.mark.parametrize("factor", [1e-4, 7.0, 1e6])
@every_method
def test_weights_times_a_constant_do_not_matter(variant: Variant, factor: float):
    it = variant.round()
    scaled = it.with_updates(lambda u: replace(u, weight=u.weight * factor))
    same_model(variant(it.server, scaled.updates), variant(it.server, it.updates), variant.by)


@pytest.mark.parametrize("heavy", ["dee", "cem"])
@every_method
def test_one_weight_may_dwarf_the_rest(variant: Variant, heavy: str):
    """By 1e17, where a sum of weights in float64 no longer holds the others: a client of rank 1, or of all ranks."""
    it = variant.round().with_updates(lambda u: replace(u, weight=u.weight * (1e17 if u.client == heavy else 1)))
    same_model(variant(it.server, it.updates), variant.expected(it.server, it.updates), variant.by)


@hard_rounds
def test_a_client_of_weight_zero_changes_nothing(variant: Variant, fixture: str):
    """Neither as an owner nor as a donor; and not even when it has diverged, as 0 times NaN is not 0."""
    it = _round(fixture)
    without = variant(it.server, [u for u in it.updates if u.weight > 0])
    same_model(variant(it.server, it.updates), without, variant.by)
    full = it.server.adapter.map(lambda t: torch.full_like(t, float("nan")))
    same_model(variant(it.server, [ClientUpdate("nan", full, 0.0, excess=0.0), *it.updates]), without, variant.by)


@hard_rounds
def test_a_scale_may_be_moved_into_b(variant: Variant, fixture: str):
    """``(A, B, s)`` and ``(A, s B, 1)`` are the same update, from a client and on the server."""
    it = _round(fixture)

    def restated(adapter: Adapter) -> Adapter:
        return replace(adapter, modules={n: Factors(f.a, f.scale * f.b) for n, f in adapter.modules.items()})

    expected = variant(it.server, it.updates)
    clients = it.with_updates(lambda u: replace(u, adapter=restated(u.adapter)))
    same_model(variant(it.server, clients.updates), expected, variant.by)
    base_change = it.server.base_change and restated(it.server.base_change)
    server = replace(it.server, adapter=restated(it.server.adapter), base_change=base_change)
    same_model(variant(server, it.updates), expected, "delta")


@hard_rounds
def test_any_grouping_of_clients_gives_the_same(variant: Variant, fixture: str):
    """One by one, in two halves for every split point (empty halves too), dealt out to three, and each alone."""
    it = _round(fixture)
    updates, n = it.updates, len(it.updates)
    expected = variant(it.server, updates)
    groupings = [[updates[:k], updates[k:]] for k in range(n + 1)]
    groupings += [[updates[n // 2 :], updates[: n // 2]], [updates[k::3] for k in range(3)], [[u] for u in updates]]
    for groups in groupings:
        parts = [Adding(variant.method, it.server, updates) for _ in groups]
        for part, group in zip(parts, groups, strict=True):
            for update in group:
                part.add(update)
        for part in parts[1:]:
            parts[0].merge(part)
        result = parts[0].finish()
        same_model(result, expected, variant.by)
        if variant.sorts:
            assert exactly_the_same_factors(result, expected)


@every_method
def test_groups_may_be_merged_in_a_tree(variant: Variant):
    """((0 1) (2 3)) (4 5): sums that have been added can be added again, and goes on taking updates."""
    it = variant.round()
    parts = []
    for first, second in zip(it.updates[::2], it.updates[1::2], strict=True):
        part, other = (Adding(variant.method, it.server, it.updates) for _ in range(2))
        part.add(first)
        other.add(second)
        part.merge(other)
        parts.append(part)
    parts[0].merge(parts[1])
    parts[2].merge(parts[0])
    extra = replace(it.updates[0], client="zoe", weight=2.0)
    parts[2].add(extra)
    same_model(parts[2].finish(), variant(it.server, [*it.updates, extra]), variant.by)


@hard_rounds
def test_inputs_stay_as_they_are(variant: Variant, fixture: str):
    """Bit for bit, the server's state included; and a caller may reuse an update's memory once it is added."""
    it, kept = _round(fixture), _round(fixture).copy()
    expected = variant(it.server, it.updates)
    assert it.server.adapter.identical(kept.server.adapter)
    if it.server.base_change is not None:
        assert it.server.base_change.identical(kept.server.base_change)
    for update, before in zip(it.updates, kept.updates, strict=True):
        assert update.adapter.identical(before.adapter), update.client

    accumulator, other = (Adding(variant.method, it.server, it.updates) for _ in range(2))
    for k, update in enumerate(it.updates):
        (accumulator if k % 2 else other).add(update)
        for _, tensor in update.adapter.tensors():
            tensor.fill_(float("nan"))
    accumulator.merge(other)
    same_model(accumulator.finish(), expected, variant.by)


@every_method
def test_without_weight_the_previous_model_stays(variant: Variant):
    it = after_others(variant.round(), {"layer.1.v": 2})
    weightless = it.with_updates(lambda u: replace(u, weight=0.0))
    for updates in ((), weightless.updates):
        result = variant(it.server, updates)
        assert result.adapter.identical(it.server.adapter)
        assert result.base_change is it.server.base_change


@every_method
def test_the_same_twice_is_the_same_to_the_last_bit(variant: Variant):
    """Signs of singular vectors and fresh adapters included."""
    it = variant.round()
    first, second = variant(it.server, it.updates), variant(it.server, it.copy().updates)
    assert exactly_the_same_factors(first, second)
    assert first.adapter.identical(second.adapter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@DEFAULTS
def test_sums_are_float32_or_wider(variant: Variant, dtype: torch.dtype):
    """1000 clients that all send c = 0.01 in half precision have the mean c.

    A sum in bfloat16 stands still near 2^9 c = 5 of 10, as half a unit in the last place is 2^-9 of the sum; one in
    float16 is off by a fifth from 8 on, where the unit is 2^-7 = 0.0078 and 0.01 is rounded to it. So one client of
    them all must give what they give together.
    """
    server = ServerState(1, _constant(0.5, 1.0, dtype), {}, {})
    sent = _constant(0.01, 1.0, dtype)
    updates = [ClientUpdate(f"client {k}", sent, 1.0, excess=0.0) for k in range(1000)]
    alone = variant.expected(server, updates[:1])
    same_model(variant(server, updates), alone, variant.by, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@DEFAULTS
def test_bringing_factors_to_the_global_scale_is_float32_or_wider(variant: Variant, dtype: torch.dtype):
    """B = 60000 at scale 1.5 is 90000 at scale 1, above float16's 65504; two clients with -60000 bring it back.

    With equal weights the mean is (90000 - 2 * 60000) / 3 = -10000; with norms as weights, 1.5 : 1 : 1, it is
    (1.5 * 90000 - 2 * 60000) / 3.5 = 4286. Both fit, so the result must be finite and near.
    """
    server = ServerState(1, _constant(0.5, 1.0, dtype), {}, {})
    first, other = _constant(0.5, 1.5, dtype, b=60000.0), _constant(0.5, 1.0, dtype, b=-60000.0)
    updates = [
        ClientUpdate("a", first, 1.0, excess=0.0),
        ClientUpdate("b", other, 1.0, excess=0.0),
        ClientUpdate("c", other, 1.0, excess=0.0),
    ]
    same_model(variant(server, updates), variant.expected(server, updates), variant.by, torch.bfloat16)


TAKES_ALL = [v for v in VARIANTS if v.info.changes_base and (v.exact == "yes" or v.name == "fedhl")]


@pytest.mark.parametrize("variant", [v for v in TAKES_ALL if "max_rank" not in v.values], ids=str)
def test_a_base_change_takes_up_the_rounding_of_the_adapter(variant: Variant):
    """In bfloat16 the global model is as near to the oracle's as in float32; the adapter alone is not."""
    it = _round("levels_after", torch.bfloat16)
    found, wanted = model(variant(it.server, it.updates)), variant.expected(it.server, it.updates)
    for module in wanted.base:
        np.testing.assert_allclose(found.change(module), wanted.change(module), atol=3e-5)


def _constant(value: float, scale: float, dtype: torch.dtype, b: float | None = None) -> Adapter:
    """An adapter of rank 2 on a 2 x 3 layer, all of whose values are the same."""
    a = torch.full((2, 3), value, dtype=dtype)
    columns = torch.full((2, 2), value if b is None else b, dtype=dtype)
    return Adapter({"m": Factors(a, columns, scale)}, {"head": torch.full((2,), value, dtype=dtype)})
