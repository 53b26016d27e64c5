"""Each rule against its formula in numpy, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyrank.aggregation import Method, build
from polyrank.aggregation.robust.krum import distances
from polyrank.aggregation.robust.registry import RULES
from polyrank.core.adapter import Adapter
from tests.aggregation.robust.cohorts import RANKS, affected, alone, at_scale, cohort, names, rows_of
from tests.conformance.fixtures import DTYPES, Round, aggregate, as_trained, conclude

COUNTING = [name for name in RULES if name != "norm"]
Centre = Callable[[np.ndarray, int], np.ndarray]

OWNERS = {1: 4, 3: 2, 6: 5}
"""11 clients; with a share of 0.2, 2 are taken to be hostile, and a row needs 5 owners: rows 0 to 5 have 11, 7, 7, 5,
5 and 5, row 6 none."""
WIDE = {"hostile": 0.2}
OPTIONS: dict[str, dict[str, Any]] = {rule: {} if rule == "norm" else WIDE for rule in RULES}


def robust(rule: str, method: str = "owner_mean", options: dict[str, Any] | None = None, **values: Any) -> Method:
    return build(method, options, RULES.build(rule, values))


def _trimmed(rows: np.ndarray, hostile: int) -> np.ndarray:
    return np.array([sorted(column)[hostile : len(rows) - hostile] for column in rows.T]).mean(axis=1)


CENTRES: dict[str, Centre] = {"median": lambda rows, _: np.median(rows, axis=0), "trimmed": _trimmed}


@pytest.mark.parametrize("rule", CENTRES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_centre_of_its_owners_rows(rule: str, dtype: torch.dtype):
    it = cohort(OWNERS, dtype=dtype)
    found = aggregate(robust(rule, **WIDE), it.server, it.updates)
    bound = 1e-12 if dtype == torch.float64 else 1e-6 if dtype == torch.float32 else 1e-2
    for name, tensor in found.parts({"a", "b"}).items():
        rows = tensor if name.endswith(".a") else tensor.T
        for j in range(6):
            expected = CENTRES[rule](rows_of(it, name, j), 2)
            np.testing.assert_allclose(rows[j].double().numpy(), expected, rtol=bound, atol=bound)
    for name, tensor in found.dense.items():
        sent = np.array([update.adapter.dense[name].double().numpy().ravel() for update in it.updates])
        expected = CENTRES[rule](sent, 2).reshape(tensor.shape)
        np.testing.assert_allclose(tensor.double().numpy(), expected, rtol=bound, atol=bound)


def test_the_geometric_median_is_where_the_owners_pull_in_no_direction():
    """At ``argmin_x sum_k |x_k - x|`` the gradient, the sum of the unit vectors to the owners' rows, is 0."""
    it = cohort(OWNERS)
    found = aggregate(robust("geometric_median", **WIDE), it.server, it.updates)
    for name, tensor in found.parts({"a", "b"}).items():
        rows = (tensor if name.endswith(".a") else tensor.T).numpy()
        for j in range(6):
            away = rows_of(it, name, j) - rows[j]
            pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0)
            assert np.linalg.norm(pull) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_where_most_owners_agree_to_the_last_bit_that_is_the_geometric_median(steps: int):
    """Eleven owners, eight of one mind: no distance of 0 is divided by, whatever the number of steps."""
    it = cohort({6: 11}, seed=15)
    other = affected(it, names(it)[:8], lambda t: torch.full_like(t, 0.75))
    rows = torch.stack([update.adapter.dense["head.weight"] for update in other.updates])
    found = aggregate(robust("geometric_median", steps=steps), other.server, other.updates)
    assert int((rows == 0.75).all(dim=2).all(dim=1).sum()) == 8
    np.testing.assert_allclose(found.dense["head.weight"].numpy(), 0.75, rtol=1e-12)


@pytest.mark.parametrize("values", [{}, {"times": 0.5}, {"bound": 20.0}])
def test_a_change_longer_than_the_bound_has_the_length_of_the_bound(values: dict[str, float]):
    """In numpy: the norm over all tensors at the global scale; then the owners' mean of what is left."""
    it = cohort(OWNERS)
    changes = {}
    for update in it.updates:
        mine = at_scale(update.adapter, it.server)
        begun = at_scale(it.server.adapter.prefix(update.adapter.rank), it.server)
        changes[update.client] = {name: tensor - begun[name] for name, tensor in mine.items()}
    norms = {
        client: math.sqrt(sum(float((own**2).sum()) for own in change.values())) for client, change in changes.items()
    }
    most = values.get("bound", values.get("times", 1.0) * float(np.median(list(norms.values()))))
    assert min(norms.values()) < most or values.get("times")
    assert max(norms.values()) > most
    server = at_scale(it.server.adapter, it.server)
    result = conclude(robust("norm", **values), it.server, it.updates)
    assert result.metrics["clients_bounded"] == sum(norm > most for norm in norms.values())
    for name, tensor in at_scale(result.adapter, it.server).items():
        short = [change[name] * min(1.0, most / norms[client]) for client, change in changes.items()]
        if not name.endswith((".a", ".b")):
            np.testing.assert_allclose(tensor, server[name] + np.mean(short, axis=0), atol=1e-12)
            continue
        turned = [own if name.endswith(".a") else own.T for own in short]
        before, after = (t if name.endswith(".a") else t.T for t in (server[name], tensor))
        for j in range(6):
            expected = before[j] + np.mean([own[j] for own in turned if j < len(own)], axis=0)
            np.testing.assert_allclose(after[j], expected, atol=1e-12)


def _products(it: Round) -> list[np.ndarray]:
    """Each client's change of the dense products and of the head, in the order of their names."""
    found = []
    for update in sorted(it.updates, key=lambda one: one.client):
        start = it.server.adapter
        products = [f.delta() - start.modules[n].prefix(f.rank).delta() for n, f in update.adapter.modules.items()]
        heads = [tensor - start.dense[name] for name, tensor in update.adapter.dense.items()]
        found.append(np.concatenate([t.numpy().ravel() for t in (*products, *heads)]))
    return found


def test_krum_measures_between_products_without_forming_them():
    it = cohort(OWNERS, seed=3)
    dense = _products(it)
    expected = np.array([[((one - other) ** 2).sum() for other in dense] for one in dense])
    updates = sorted(it.updates, key=lambda one: one.client)
    found = distances([update.adapter for update in updates], it.server.adapter)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_krum_leaves_out_those_whose_products_are_far_from_all_others(seed: int):
    """Of 11 clients 2 are hostile: each one's 11 - 2 - 2 = 7 nearest count, and the best 9 stay."""
    it = cohort(OWNERS, seed=seed)
    updates, dense = sorted(it.updates, key=lambda one: one.client), _products(it)
    apart = [[float(((one - other) ** 2).sum()) for other in dense] for one in dense]
    scores = [sum(sorted(own[:i] + own[i + 1 :])[:7]) for i, own in enumerate(apart)]
    kept = [updates[i] for i in sorted(np.argsort(scores)[:9])]
    method = ("owner_mean", "replication", "zero_padding", "tempered")[seed % 4]
    result = conclude(robust("krum", method, **WIDE), it.server, it.updates)
    _same(result.adapter, aggregate(build(method), it.server, alone(kept)), 1e-12)
    assert result.metrics["clients_left_out"] == 2


def test_krum_by_hand():
    """Five clients at 0, 1, 5, 10 and 11, one hostile: of the squared distances the 5 - 1 - 2 = 2 smallest count.

    1 + 25 = 26, 1 + 16 = 17, 16 + 25 = 41, 1 + 25 = 26, 1 + 36 = 37: the one in the middle goes. By the second nearest
    alone it would be the last.
    """
    it = cohort({6: 5})
    at = {"c00": 5.0, "c01": 11.0, "c02": 0.0, "c03": 10.0, "c04": 1.0}

    def moved(client: str) -> Adapter:
        head = it.server.adapter.dense["head.bias"].clone()
        head[1] += at[client]
        return it.server.adapter.replaced({"head.bias": head})

    updates = [replace(update, adapter=moved(update.client)) for update in it.updates]
    judged = RULES.build("krum").judge(sorted(updates, key=lambda one: one.client), it.server.adapter)
    assert [update.client for update in judged.updates] == ["c01", "c02", "c03", "c04"]


def test_a_pair_that_agrees_is_no_majority_for_krum():
    """Two hostile clients send the very same, far away: each is the other's nearest, and no more than that."""
    it = cohort({6: 11}, seed=16)
    twins = names(it)[:2]
    pair = affected(it, twins, lambda t: torch.full_like(t, 3.0))
    rule = RULES.build("krum", WIDE)
    judged = rule.judge(sorted(pair.updates, key=lambda one: one.client), it.server.adapter)
    assert not set(twins) & {update.client for update in judged.updates}


def test_krum_sees_the_same_clients_in_other_coordinates():
    """``(B Q, Q^-1 A)`` is the same update: whoever is left out stays so, which no rule on factors can say."""
    it = cohort(OWNERS, seed=4)
    numbers = np.random.default_rng(0)

    def turned(update: Any) -> Any:
        modules = {}
        for name, f in update.adapter.modules.items():
            q = torch.from_numpy(numbers.standard_normal((f.rank, f.rank))) + 3 * torch.eye(f.rank).double()
            modules[name] = replace(f, a=torch.linalg.inv(q) @ f.a, b=f.b @ q)
        return replace(update, adapter=Adapter(modules, update.adapter.dense))

    rule = RULES.build("krum", WIDE)
    judged = [
        rule.judge(sorted(round_.updates, key=lambda one: one.client), it.server.adapter)
        for round_ in (it, it.with_updates(turned))
    ]
    kept = [[update.client for update in own.updates] for own in judged]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 9


@pytest.mark.parametrize("rule", COUNTING)
@pytest.mark.parametrize("size", [1e3, 1e30, -1e30, 0.0])
def test_clients_that_send_anything_stay_within_what_the_honest_ones_sent(rule: str, size: float):
    """Two of eleven send huge numbers: no row and no tensor leaves the box of the honest ones' values."""
    it = cohort({6: 11}, seed=5)
    hostile = names(it)[3:5]
    attacked = affected(it, hostile, lambda t: torch.full_like(t, size))
    found = at_scale(aggregate(robust(rule, **WIDE), attacked.server, attacked.updates), it.server)
    honest = [at_scale(u.adapter, it.server) for u in it.updates if u.client not in hostile]
    for name, tensor in found.items():
        rows = np.array([own[name] for own in honest])
        mine = tensor[:6] if name.endswith(".a") else tensor[:, :6] if name.endswith(".b") else tensor
        slack = 1e-9
        assert (mine >= rows.min(axis=0) - slack).all(), name
        assert (mine <= rows.max(axis=0) + slack).all(), name


@pytest.mark.parametrize("rule", RULES)
def test_under_any_rule_one_loud_client_moves_a_value_by_a_bounded_amount(rule: str):
    """Ten times as loud, and the result is the same, or (norm) in its direction as far as the bound."""
    it = cohort({6: 11}, seed=6)
    found = []
    for loud in (1e4, 1e5):
        attacked = affected(it, names(it)[:1], lambda t, loud=loud: loud * torch.ones_like(t))
        found.append(aggregate(robust(rule, **OPTIONS[rule]), attacked.server, attacked.updates))
    far = max(float((t - dict(found[1].tensors())[name]).abs().max()) for name, t in found[0].tensors())
    assert far < 0.01


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_clients_and_what_they_say_they_weigh_is_nothing(rule: str):
    it = cohort(OWNERS, seed=7)
    one = aggregate(robust(rule, **OPTIONS[rule]), it.server, it.updates)
    weighs = [replace(u, weight=u.weight * 10**i) for i, u in enumerate(reversed(it.updates))]
    assert one.identical(aggregate(robust(rule, **OPTIONS[rule]), it.server, weighs))


@pytest.mark.parametrize("rule", RULES)
def test_clients_who_agree_get_the_plain_mean(rule: str):
    """All have sent the same, as far as they own it: the owners' mean is that, and so is every centre of it."""
    it = cohort(OWNERS, seed=8)
    given = it.updates[0].adapter.map(torch.clone)
    full = next(u.adapter for u in it.updates if u.adapter.rank == 6)

    def same(update: Any) -> Any:
        cut = {name: full.modules[name].prefix(f.rank) for name, f in update.adapter.modules.items()}
        return replace(update, adapter=Adapter(cut, given.dense))

    agreed = it.with_updates(same)
    plain = aggregate(build("owner_mean"), agreed.server, alone(agreed.updates))
    values = {"bound": 1e6} if rule == "norm" else WIDE
    _same(aggregate(robust(rule, **values), agreed.server, agreed.updates), plain, 1e-9)


@pytest.mark.parametrize("rule", ["median", "trimmed", "geometric_median"])
def test_a_row_with_too_few_owners_keeps_its_value(rule: str):
    """11 clients, a share of 0.3: 3 may be hostile, so 7 owners are needed; rank indices 3 to 5 have 5, 6 has none."""
    it = cohort(OWNERS, seed=9)
    result = conclude(robust(rule, "zero_padding"), it.server, it.updates)
    before = it.server.adapter
    for name, factors in result.adapter.modules.items():
        assert torch.equal(factors.a[3:], before.modules[name].a[3:])
        assert torch.equal(factors.b[:, 3:], before.modules[name].b[:, 3:])
        assert not torch.equal(factors.a[:3], before.modules[name].a[:3])
    assert result.metrics["rows_held"] == pytest.approx(4 / 7)


@pytest.mark.parametrize("rule", ["median", "trimmed", "geometric_median"])
def test_hostile_clients_that_claim_a_high_rank_get_no_row_for_themselves(rule: str):
    """The attack that ranks invite: two of nine say they have rank 6 where all others have 3, and send what they like.

    Under the mean the rows 3 to 5 are theirs alone; under a rule for a quarter of hostile clients they keep their
    values, and the rows below are within what the honest owners sent.
    """
    it = cohort({3: 7, 6: 2}, seed=10)
    hostile = names(it, 6)
    attacked = affected(it, hostile, lambda t: torch.full_like(t, 50.0))
    mean = aggregate(build("owner_mean"), attacked.server, attacked.updates)
    found = aggregate(robust(rule, hostile=0.25), attacked.server, attacked.updates)
    for name, before in it.server.adapter.modules.items():
        assert float((mean.modules[name].a[3:6] - 50).abs().max()) < 1e-9
        assert torch.equal(found.modules[name].a[3:], before.a[3:])
        assert float(found.modules[name].a[:3].abs().max()) < 5


@pytest.mark.parametrize("rule", COUNTING)
def test_with_too_few_clients_for_the_rule_everything_stays(rule: str):
    """Two clients cannot be told apart, and krum wants five where one may be hostile."""
    it = cohort({6: 2 if rule != "krum" else 4})
    result = conclude(robust(rule), it.server, it.updates)
    assert result.adapter.identical(it.server.adapter)
    assert result.metrics["rows_held"] == 1.0


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "owner_mean": lambda centre, _, __: centre,
    "replication": lambda centre, _, __: centre,
    "zero_padding": lambda centre, _, share: share * centre,
    "zero_padding_delta": lambda centre, before, share: before + share * (centre - before),
    "tempered": lambda centre, before, share: before + share**0.5 * (centre - before),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_the_methods_own_formula_holds_for_the_medians(method: str):
    """With ``c_j`` the median over the ``n_j`` of n clients that own j, and every client counted once."""
    it = cohort(OWNERS, seed=11)
    found = at_scale(aggregate(robust("median", method, **WIDE), it.server, it.updates), it.server)
    before = at_scale(it.server.adapter, it.server)
    for name in it.server.adapter.parts({"a", "b"}):
        rows, begun = (t[name] if name.endswith(".a") else t[name].T for t in (found, before))
        for j in range(6):
            own = rows_of(it, name, j)
            expected = FORMULAS[method](np.median(own, axis=0), begun[j], len(own) / 11)
            np.testing.assert_allclose(rows[j], expected, atol=1e-12)
        np.testing.assert_array_equal(rows[6], begun[6])


@pytest.mark.parametrize(
    ("method", "shared", "trained"), [("ffa", "a", "b"), ("rolora", "b", "a"), ("fedsa", "b", "a")]
)
def test_of_methods_on_one_factor_the_other_stays(method: str, shared: str, trained: str):
    """The second round: rolora trains A."""
    made = robust("median", method, **WIDE)
    it = as_trained(made, cohort(OWNERS, seed=12))
    found = at_scale(aggregate(made, it.server, it.updates), it.server)
    before = at_scale(it.server.adapter, it.server)
    for name in it.server.adapter.modules:
        np.testing.assert_array_equal(found[f"{name}.{shared}"], before[f"{name}.{shared}"])
        rows = found[f"{name}.{trained}"] if trained == "a" else found[f"{name}.{trained}"].T
        for j in range(6):
            own = rows_of(it, f"{name}.{trained}", j)
            share = 1.0 if method == "fedsa" else len(own) / 11
            np.testing.assert_allclose(rows[j], share * np.median(own, axis=0), atol=1e-12)


def test_fedsvd_factors_the_product_of_the_medians_anew():
    made = robust("median", "fedsvd", **WIDE)
    it = as_trained(made, cohort(OWNERS, seed=13))
    found = aggregate(made, it.server, it.updates)
    for name, factors in found.modules.items():
        before = it.server.adapter.modules[name]
        b = before.b.clone().numpy()
        for j in range(6):
            own = rows_of(it, f"{name}.b", j)
            b[:, j] = len(own) / 11 * np.median(own, axis=0)
        np.testing.assert_allclose(factors.delta().numpy(), before.scale * b @ before.a.numpy(), atol=1e-9)


def _same(found: Adapter, expected: Adapter, bound: float) -> None:
    wanted = dict(expected.tensors())
    for name, tensor in found.tensors():
        np.testing.assert_allclose(tensor.double().numpy(), wanted[name].double().numpy(), atol=bound, rtol=bound)


def test_a_client_of_weight_0_is_none():
    it = cohort(OWNERS, seed=14)
    absent = it.updates[0].client
    silent = it.with_updates(lambda u: replace(u, weight=0.0) if u.client == absent else u)
    without = Round(it.server, it.updates[1:])
    found = [aggregate(robust("median", **WIDE), round_.server, round_.updates) for round_ in (silent, without)]
    assert found[0].identical(found[1])


def test_the_ranks_of_the_tests_are_levels():
    assert tuple(OWNERS) == RANKS
