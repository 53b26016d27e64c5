"""Every aggregation method of the registry against every property that all of them share.

A new method is picked up from `polyrank.aggregation.METHODS`; it fails here until it has an entry in `oracle.ORACLES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation import METHODS, build
from polyrank.aggregation.method import options
from polyrank.state import ClientUpdate, ServerState
from tests.conformance.compare import same
from tests.conformance.fixtures import DTYPES, EQUAL, UNEQUAL, Member, Round, aggregate, equal_ranks, lone, make
from tests.conformance.oracle import ORACLES, Oracle, relative_errors

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

    def rounds(self) -> Iterable[str]:
        return EQUAL if self.info.equal_ranks else EQUAL | UNEQUAL

    def round(self) -> Round:
        """The hardest round that the method takes."""
        return equal_ranks() if self.info.equal_ranks else UNEQUAL["unowned_tail"](torch.float64)

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Adapter:
        return aggregate(self.method, server, updates)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.values.items())])


VARIANTS = [
    Variant(name, dict(values)) for name in METHODS for values in (ORACLES[name].variants if name in ORACLES else ({},))
]
every_method = pytest.mark.parametrize("variant", VARIANTS, ids=str)
every_round = pytest.mark.parametrize(
    ("variant", "fixture"),
    [pytest.param(v, name, id=f"{v}-{name}") for v in VARIANTS for name in v.rounds()],
)


def _round(name: str, dtype: torch.dtype = torch.float64) -> Round:
    return (EQUAL | UNEQUAL)[name](dtype)


@pytest.mark.parametrize("name", METHODS)
def test_has_an_oracle_that_tries_every_option(name: str):
    if name not in ORACLES:
        pytest.fail(_MISSING.format(name))
    tried = {key for values in ORACLES[name].variants for key in values}
    assert {} in ORACLES[name].variants
    assert tried == set(options(METHODS[name])), "ORACLES[...].variants must try every option of the method"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_round
def test_equals_the_dense_oracle(variant: Variant, fixture: str, dtype: torch.dtype):
    given_round = _round(fixture, dtype)
    expected = variant.oracle.expected(given_round.server, given_round.updates, **variant.values)
    same(variant(given_round.server, given_round.updates), expected, variant.by, dtype)


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
@settings(deadline=None, max_examples=15)
@given(members=_members, seed=st.integers(0, 99))
def test_equals_the_dense_oracle_for_any_clients(variant: Variant, members: list[Member], seed: int):
    some = make(members, 5, seed=seed)
    same(
        variant(some.server, some.updates),
        variant.oracle.expected(some.server, some.updates, **variant.values),
        variant.by,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_round
def test_keeps_names_shapes_scales_and_dtypes_of_the_server(variant: Variant, fixture: str, dtype: torch.dtype):
    given_round = _round(fixture, dtype)
    before = given_round.server.adapter
    after = variant(given_round.server, given_round.updates)
    assert after.first_not_finite() is None
    assert after.modules.keys() == before.modules.keys()
    assert all(after.modules[name].rank <= before.modules[name].rank for name in before.modules)
    assert all(after.modules[name].scale == before.modules[name].scale for name in before.modules)
    assert {name: t.dtype for name, t in after.tensors()} == {name: t.dtype for name, t in before.tensors()}
    if variant.by == "factors":
        assert {name: t.shape for name, t in after.tensors()} == {name: t.shape for name, t in before.tensors()}


@every_round
def test_exactness_is_as_declared(variant: Variant, fixture: str):
    """The mean of the products comes out of an exact method for any clients; of another one, for one full client."""
    given_round = _round(fixture)
    error = relative_errors(given_round.updates, variant(given_round.server, given_round.updates))[""]
    if variant.info.exact is True:
        assert error < 1e-10
    elif fixture == "three_levels" and variant.info.exact is False:
        assert error > 1e-3, "declare the method exact, or find what makes it agree"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.needs <= 1], ids=str)
def test_one_client_of_full_rank_gives_itself_back(variant: Variant):
    alone = lone(6)
    own = alone.updates[0].adapter
    result = variant(alone.server, alone.updates)
    if variant.by == "factors":
        scales = {name: f.scale for name, f in alone.server.adapter.modules.items()}
        own = replace(own, modules={name: f.rescaled(scales[name]) for name, f in own.modules.items()})
    same(result, own, variant.by)


@every_round
def test_order_of_clients_does_not_matter(variant: Variant, fixture: str):
    server, updates = (it := _round(fixture)).server, it.updates
    expected = variant(server, updates)
    same(variant(server, updates[::-1]), expected, variant.by)
    same(variant(server, sorted(updates, key=lambda u: u.client)), expected, variant.by)
    same(variant(server, sorted(updates, key=lambda u: u.adapter.rank)), expected, variant.by)


@pytest.mark.parametrize("factor", [1e-4, 7.0, 1e6])
@every_method
def test_weights_times_a_constant_do_not_matter(variant: Variant, factor: float):
    it = variant.round()
    scaled = it.with_updates(lambda u: replace(u, weight=u.weight * factor))
    same(variant(it.server, scaled.updates), variant(it.server, it.updates), variant.by)


@every_round
def test_a_client_of_weight_zero_changes_nothing(variant: Variant, fixture: str):
    """Neither as an owner nor as a donor; and not even when it has diverged, as 0 times NaN is not 0."""
    it = _round(fixture)
    without = variant(it.server, [u for u in it.updates if u.weight > 0])
    same(variant(it.server, it.updates), without, variant.by)
    full = it.server.adapter.map(lambda t: torch.full_like(t, float("nan")))
    same(variant(it.server, [ClientUpdate("nan", full, 0.0), *it.updates]), without, variant.by)


@every_round
def test_a_scale_may_be_moved_into_b(variant: Variant, fixture: str):
    """``(A, B, s)`` and ``(A, s B, 1)`` are the same update, from a client and on the server."""
    it = _round(fixture)

    def restated(adapter: Adapter) -> Adapter:
        return replace(adapter, modules={n: Factors(f.a, f.scale * f.b) for n, f in adapter.modules.items()})

    expected = variant(it.server, it.updates)
    clients = it.with_updates(lambda u: replace(u, adapter=restated(u.adapter)))
    same(variant(it.server, clients.updates), expected, variant.by)
    server = replace(it.server, adapter=restated(it.server.adapter))
    same(variant(server, it.updates), expected, "delta")


@every_round
def test_any_grouping_of_clients_gives_the_same(variant: Variant, fixture: str):
    """One by one, in two halves for every split point (empty halves too), dealt out to three, and each alone."""
    it = _round(fixture)
    updates, n = it.updates, len(it.updates)
    expected = variant(it.server, updates)
    groupings = [[updates[:k], updates[k:]] for k in range(n + 1)]
    groupings += [[updates[k:], updates[:k]] for k in range(n + 1)]
    groupings += [[updates[k::3] for k in range(3)], [[update] for update in updates]]
    for groups in groupings:
        parts = [variant.method.start(it.server) for _ in groups]
        for part, group in zip(parts, groups, strict=True):
            for update in group:
                part.add(update)
        for part in parts[1:]:
            parts[0].merge(part)
        same(parts[0].finish().adapter, expected, variant.by)


@every_method
def test_groups_may_be_merged_in_a_tree(variant: Variant):
    """((0 1) (2 3)) (4 5): an accumulator that has been merged can be merged again, and goes on taking updates."""
    it = variant.round()
    parts = []
    for first, second in zip(it.updates[::2], it.updates[1::2], strict=True):
        part, other = variant.method.start(it.server), variant.method.start(it.server)
        part.add(first)
        other.add(second)
        part.merge(other)
        parts.append(part)
    parts[0].merge(parts[1])
    parts[2].merge(parts[0])
    extra = replace(it.updates[0], client="zoe", weight=2.0)
    parts[2].add(extra)
    same(parts[2].finish().adapter, variant(it.server, [*it.updates, extra]), variant.by)


@every_round
def test_inputs_stay_as_they_are(variant: Variant, fixture: str):
    """Bit for bit, the server's state included; and a caller may reuse an update's memory once it is added."""
    it, kept = _round(fixture), _round(fixture).copy()
    expected = variant(it.server, it.updates)
    assert it.server.adapter.identical(kept.server.adapter)
    for update, before in zip(it.updates, kept.updates, strict=True):
        assert update.adapter.identical(before.adapter), update.client

    accumulator = variant.method.start(it.server)
    other = variant.method.start(it.server)
    for k, update in enumerate(it.updates):
        (accumulator if k % 2 else other).add(update)
        for _, tensor in update.adapter.tensors():
            tensor.fill_(float("nan"))
    accumulator.merge(other)
    same(accumulator.finish().adapter, expected, variant.by)


@every_method
def test_without_weight_the_previous_adapter_stays(variant: Variant):
    it = variant.round()
    assert variant(it.server, []).identical(it.server.adapter)
    weightless = it.with_updates(lambda u: replace(u, weight=0.0))
    assert variant(it.server, weightless.updates).identical(it.server.adapter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_method
def test_sums_are_float32_or_wider(variant: Variant, dtype: torch.dtype):
    """1000 clients that all send c = 0.01 in half precision have the mean c.

    A sum in bfloat16 stands still near 2^9 c = 5 of 10, as half a unit in the last place is 2^-9 of the sum; one in
    float16 is off by a fifth from 8 on, where the unit is 2^-7 = 0.0078 and 0.01 is rounded to it.
    """
    server = ServerState(1, _constant(0.5, 1.0, dtype), {}, {})
    sent = _constant(0.01, 1.0, dtype)
    same(
        variant(server, [ClientUpdate(f"client {k}", sent, 1.0) for k in range(1000)]), sent, variant.by, torch.bfloat16
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_method
def test_bringing_factors_to_the_global_scale_is_float32_or_wider(variant: Variant, dtype: torch.dtype):
    """B = 60000 at scale 1.5 is 90000 at scale 1, above float16's 65504; two clients with -60000 bring it back.

    With equal weights the mean is (90000 - 2 * 60000) / 3 = -10000; with norms as weights, 1.5 : 1 : 1, it is
    (1.5 * 90000 - 2 * 60000) / 3.5 = 4286. Both fit, so the result must be finite and near.
    """
    server = ServerState(1, _constant(0.5, 1.0, dtype), {}, {})
    first, other = _constant(0.5, 1.5, dtype, b=60000.0), _constant(0.5, 1.0, dtype, b=-60000.0)
    updates = [ClientUpdate("a", first, 1.0), ClientUpdate("b", other, 1.0), ClientUpdate("c", other, 1.0)]
    same(
        variant(server, updates),
        variant.oracle.expected(server, updates, **variant.values),
        variant.by,
        torch.bfloat16,
    )


def _constant(value: float, scale: float, dtype: torch.dtype, b: float | None = None) -> Adapter:
    """An adapter of rank 2 on a 2 x 3 layer, all of whose values are the same."""
    a = torch.full((2, 3), value, dtype=dtype)
    columns = torch.full((2, 2), value if b is None else b, dtype=dtype)
    return Adapter({"m": Factors(a, columns, scale)}, {"head": torch.full((2,), value, dtype=dtype)})
