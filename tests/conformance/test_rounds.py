"""Several rounds: what clients of each rank start from, and that the global model is the mean of what they made of it.

Everything is compared as full matrices: base changes, cuts and frozen rank indices are seen from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polyrank.aggregation import Method, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import DENSE, SHAPES, chosen_indices, conclude
from tests.conformance.oracle import best, dense_base, model, plain
from tests.conformance.test_conformance import ONCE, Variant

CLIENTS: Mapping[str, tuple[int, float, float]] = {
    "ann": (1, 5.0, 2.0),
    "bob": (3, 2.0, 0.5),
    "cem": (3, 1.0, 3.0),
    "dee": (6, 4.0, 1.0),
}
"""Rank, weight, scale."""

LOW = ("ann", "bob", "cem")
ALL = tuple(CLIENTS)


class Draw:
    """Standard normal tensors in float64, from one seed."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.from_numpy(self._numbers.standard_normal(shape))


def begin(draw: Draw, rank: int = 6) -> ServerState:
    """LoRA's start: A random, B zero."""
    modules = {
        name: Factors(draw(rank, d_in), torch.zeros(d_out, rank, dtype=torch.float64), 2.0)
        for name, (d_out, d_in) in SHAPES.items()
    }
    dense = {name: draw(*shape) for name, shape in DENSE.items()}
    ranks = {name: r for name, (r, _, _) in CLIENTS.items()}
    scales = {name: s for name, (_, _, s) in CLIENTS.items()}
    return ServerState(0, Adapter(modules, dense), ranks, scales, seed=7)


@dataclass(frozen=True)
class Played:
    """A round from both sides: the states, and each client's update, start and trained model in full, by module."""

    before: ServerState
    after: ServerState
    updates: tuple[ClientUpdate, ...]
    starts: Mapping[str, Mapping[str, np.ndarray]]
    models: Mapping[str, Mapping[str, np.ndarray]]

    def mean(self, module: str) -> np.ndarray:
        total = sum(update.weight for update in self.updates)
        return sum(u.weight / total * self.models[u.client][module] for u in self.updates)


def play(method: Method, state: ServerState, names: Sequence[str], draw: Draw) -> Played:
    """One round: every client moves what the method trains by random amounts."""
    trains = method.parts(state.round + 1).trains
    updates, starts, models = [], {}, {}
    for name in names:
        rank, weight, scale = CLIENTS[name]
        download = method.read_out(state, rank, name)
        base = dense_base(state.adapter, download.base_change)
        sent = {m: f.rescaled(scale * method.scaled_up(f.rank, 6)) for m, f in download.adapter.modules.items()}
        trained = {
            m: Factors(
                f.a + draw(*f.a.shape) if "a" in trains else f.a,
                f.b + draw(*f.b.shape) if "b" in trains else f.b,
                f.scale,
            )
            for m, f in sent.items()
        }
        dense = {m: t + draw(*t.shape) for m, t in state.adapter.dense.items()}
        own = {}
        if method.info.chooses_indices:  # the others stay as they were sent, and are not sent back
            own = {m: chosen_indices(name, m, min(rank, f.rank), f.rank) for m, f in sent.items()}
            trained = {m: moved_at(own[m], sent[m], f) for m, f in trained.items()}
        updates.append(ClientUpdate(name, Adapter(trained, dense).picked(own), weight, excess=0.1 * len(updates)))
        starts[name] = {m: base[m] + f.delta().numpy() for m, f in sent.items()}
        models[name] = {m: base[m] + f.delta().numpy() for m, f in trained.items()}
    result = conclude(method, state, updates)
    after = replace(state, round=state.round + 1, adapter=result.adapter, base_change=result.base_change)
    return Played(state, after, tuple(updates), starts, models)


def moved_at(indices: Sequence[int], start: Factors, end: Factors) -> Factors:
    """The factors at the end, where only these rank indices were trained."""
    a, b = start.a.clone(), start.b.clone()
    a[indices], b[:, indices] = end.a[indices], end.b[:, indices]
    return Factors(a, b, start.scale)


def rounds(method: Method, cohorts: Sequence[Sequence[str]], seed: int = 0) -> list[Played]:
    draw = Draw(seed)
    state, out = begin(draw), []
    for names in cohorts:
        out.append(play(method, state, names, draw))
        state = out[-1].after
    return out


SOME = next(iter(SHAPES))
COHORTS = (ALL, LOW, ("ann", "dee"), ALL)

exact = pytest.mark.parametrize("variant", [v for v in ONCE if v.exact == "yes"], ids=str)


@exact
def test_the_global_model_of_an_exact_method_is_the_mean_of_the_clients_models(variant: Variant):
    """Whatever was cut off, frozen or drawn anew on the way down, and with clients that missed rounds."""
    for played in rounds(variant.method, COHORTS):
        for module, found in ((m, model(played.after).change(m)) for m in SHAPES):
            np.testing.assert_allclose(found, played.mean(module), atol=1e-9, err_msg=f"{module} {played.before.round}")


@exact
def test_every_rank_starts_an_exact_method_from_what_it_can_hold_of_the_global_model(variant: Variant):
    """Where a base change is kept, from all of it, whatever the rank; else from the first rank indices of it."""
    for played in rounds(variant.method, COHORTS):
        for rank in (1, 3, 6, 9):
            download = variant.method.read_out(played.after, rank, "ann")
            assert {f.rank for f in download.adapter.modules.values()} == {min(rank, 6)}
            for module in SHAPES:
                base = dense_base(played.after.adapter, download.base_change)[module]
                started = base + plain(download.adapter).delta(module)
                whole = model(played.after)
                if not variant.info.changes_base:
                    prefix = plain(played.after.adapter.prefix(rank))
                    np.testing.assert_allclose(started, prefix.delta(module), atol=1e-12)
                else:
                    np.testing.assert_allclose(started, whole.change(module), atol=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
def test_flexlora_is_the_best_approximation_of_the_mean_of_the_clients_models(balanced: bool):
    """And every client starts from the best approximation of its own rank."""
    for played in rounds(build("flexlora", {"balanced": balanced}), COHORTS):
        for module in SHAPES:
            mean = played.mean(module)
            np.testing.assert_allclose(model(played.after).change(module), best(mean, 6), atol=1e-9)
            for rank in (1, 3):
                start = build("flexlora").read_out(played.after, rank, "ann").adapter.modules[module]
                np.testing.assert_allclose(start.delta(), best(mean, rank), atol=1e-9)


def test_rb_lora_starts_every_rank_from_the_best_approximation_of_the_owners_mean():
    """The global model is owner_mean's of the same round; the A that is read out is orthonormal."""
    for played in rounds(build("rb_lora"), COHORTS):
        mean = conclude(build("owner_mean"), played.before, played.updates).adapter
        for module, factors in mean.modules.items():
            whole = factors.delta().numpy()
            for rank in (1, 3, 6):
                start = build("rb_lora").read_out(played.after, rank, "ann").adapter.modules[module]
                np.testing.assert_allclose(start.delta(), best(whole, rank), atol=1e-9)
                torch.testing.assert_close(start.a @ start.a.T, torch.eye(rank, dtype=torch.float64))


def test_fed_plora_starts_every_client_from_the_whole_global_model():
    """Whatever it trains of it; the rest is frozen. A rank index that nobody drew keeps its value."""
    for played in rounds(build("fed_plora"), (*COHORTS, ("ann",))):
        before, after = played.before.adapter, played.after.adapter
        owned = {"": set()} | {
            u.client: set(build("fed_plora").indices(played.before, u.client, {SOME: u.adapter.rank})[SOME].tolist())
            for u in played.updates
        }
        for module in SHAPES:
            for start in played.starts.values():
                np.testing.assert_allclose(start[module], model(played.before).change(module), atol=1e-9)
            for j in set(range(6)) - set().union(*owned.values()):
                assert torch.equal(before.modules[module].a[j], after.modules[module].a[j])
                assert torch.equal(before.modules[module].b[:, j], after.modules[module].b[:, j])


def test_fslora_trains_sketches_of_the_global_model():
    """``s B S A`` with R / r for what was drawn; after a round of full rank alone, the client's own adapter."""
    for played in rounds(build("fslora"), (*COHORTS, ("dee",))):
        for name, starts in played.starts.items():
            rank = CLIENTS[name][0]
            own = build("fslora").indices(played.before, name, dict.fromkeys(SHAPES, rank))
            for module, start in starts.items():
                f = played.before.adapter.modules[module]
                sketch = np.zeros((6, 6))
                for j in own[module].tolist():
                    sketch[j, j] = 6 / rank
                np.testing.assert_allclose(start, f.scale * f.b.numpy() @ sketch @ f.a.numpy(), atol=1e-9)
    for module in SHAPES:
        np.testing.assert_allclose(model(played.after).change(module), played.models["dee"][module], atol=1e-9)


def test_spectral_gives_ranks_above_the_kept_one_new_directions():
    """B is zero there, and A is drawn anew each round, by layer; what is kept is the best approximation of the mean."""
    drawn = []
    for played in rounds(build("spectral", {"noise": 0.6}), COHORTS):
        for module, factors in played.after.adapter.modules.items():
            mean = played.mean(module)
            kept = int((factors.b.norm(dim=0) > 0).sum())
            assert 1 <= kept < 6
            np.testing.assert_allclose(factors.delta(), best(mean, kept), atol=1e-9)
            assert not factors.b[:, kept:].any()
            drawn += list(factors.a[kept:])
    assert all(not torch.equal(row, other) for i, row in enumerate(drawn) for other in drawn[:i])


@pytest.mark.parametrize("weights", ["examples", "tail"])
def test_fedhl_adds_changes_to_the_whole(weights: str):
    """``W + sum_i q_i (what client i made - what it started from)``; starts are the best cuts of W from round 2 on."""
    for played in rounds(build("fedhl", {"weights": weights, "eps": 0.3}), COHORTS):
        before, after = model(played.before), model(played.after)
        whole = {m: before.change(m) for m in SHAPES}
        size = sum(float((w**2).sum()) for w in whole.values())
        q = {}
        for update in played.updates:
            tail = sum(float(((whole[m] - played.starts[update.client][m]) ** 2).sum()) for m in SHAPES)
            q[update.client] = update.weight if weights == "examples" else 1 / ((tail / size if size else 0.0) + 0.3)
        total = sum(q.values())
        for module in SHAPES:
            changes = [q[name] / total * (played.models[name][module] - played.starts[name][module]) for name in q]
            np.testing.assert_allclose(after.change(module), whole[module] + sum(changes), atol=1e-9)
            np.testing.assert_allclose(after.adapter.delta(module), best(after.change(module), 6), atol=1e-9)
            for name in q:
                if played.before.round > 0:
                    cut = best(whole[module], CLIENTS[name][0])
                    np.testing.assert_allclose(played.starts[name][module], cut, atol=1e-9)


@pytest.mark.parametrize("name", ["flora", "florist"])
def test_stacking_starts_anew_each_round(name: str):
    """B is 0 and A another one, so what was learned is in the base change alone."""
    first, second = rounds(build(name), (ALL, LOW))
    for module in SHAPES:
        one, two = first.after.adapter.modules[module], second.after.adapter.modules[module]
        assert not one.b.any()
        assert not two.b.any()
        assert not torch.equal(one.a, two.a)
        assert not torch.equal(one.a, first.before.adapter.modules[module].a)


def test_lora_a2_takes_turns_and_moves_what_was_chosen():
    """As rolora; a rank index that nobody chose keeps its value, one that a single client chose has that client's."""
    for number, played in enumerate(rounds(build("lora_a2"), (("ann", "bob"), ALL, ("ann",), ("bob", "cem"))), start=1):
        side, other = "ab" if number % 2 == 0 else "ba"
        for module in SHAPES:
            before, after = played.before.adapter.modules[module], played.after.adapter.modules[module]
            assert torch.equal(getattr(before, other), getattr(after, other))
            chose = {u.client: chosen_indices(u.client, module, CLIENTS[u.client][0], 6) for u in played.updates}
            for j in range(6):
                owners = [u for u in played.updates if j in chose[u.client]]
                ours, theirs = (getattr(f, side)[j] if side == "a" else f.b[:, j] for f in (after, before))
                if not owners:
                    assert torch.equal(ours, theirs)
                if len(owners) == 1:
                    sent = owners[0].adapter.modules[module].rescaled(2.0)
                    row = chose[owners[0].client].index(j)
                    torch.testing.assert_close(ours, sent.a[row] if side == "a" else sent.b[:, row])


def test_rolora_takes_turns():
    """B in rounds 1 and 3, A in round 2; the other factor is the same to the last bit."""
    for number, played in enumerate(rounds(build("rolora"), (ALL, ALL, ALL)), start=1):
        for module in SHAPES:
            before, after = played.before.adapter.modules[module], played.after.adapter.modules[module]
            assert torch.equal(before.a, after.a) == (number != 2)
            assert torch.equal(before.b, after.b) == (number == 2)


def test_fedsvd_keeps_the_product_and_makes_a_orthonormal():
    """The product is that of ffa's mean of B under the same A; ``A A^T = I``."""
    for played in rounds(build("fedsvd"), (ALL, LOW, ALL)):
        ffa = conclude(build("ffa"), played.before, played.updates).adapter
        for module, factors in played.after.adapter.modules.items():
            torch.testing.assert_close(factors.delta(), ffa.modules[module].delta())
            torch.testing.assert_close(factors.a @ factors.a.T, torch.eye(6, dtype=torch.float64))


def test_fedsvd_keeps_its_random_a_while_b_is_zero():
    state = begin(Draw(0))
    updates = [ClientUpdate("ann", state.adapter, 1.0)]
    assert conclude(build("fedsvd"), state, updates).adapter.identical(state.adapter)


def wipes(variant: Variant) -> bool:
    """The published zero padding: a row that nobody owns becomes 0, in A and B."""
    return variant.name in ("zero_padding", "hetlora") and not (
        variant.values.get("keep_unowned") or variant.values.get("min_owners")
    )


@pytest.mark.parametrize(
    "cohorts",
    [(LOW,) * 4, (ALL, LOW, LOW, LOW), (LOW, ALL, LOW, LOW, LOW), (("bob",), ("ann",), ("ann",), ("bob",))],
    ids=["low", "first all", "second all", "lone"],
)
@pytest.mark.parametrize("variant", [v for v in ONCE if not v.info.equal_ranks and not wipes(v)], ids=str)
def test_no_rank_index_dies(variant: Variant, cohorts: Sequence[Sequence[str]]):
    """Zero in A and in B it would have no gradient ever again, though nobody trained it yet.

    Rounds without a client of the global rank, from LoRA's start: the stack is smaller than R, rows have no owner.
    """
    for played in rounds(variant.method, cohorts):
        for module, factors in played.after.adapter.modules.items():
            sizes = factors.a.norm(dim=1) + factors.b.norm(dim=0)
            assert float(sizes.min()) > 1e-3, f"{module} after round {played.after.round}: {sizes.tolist()}"


@pytest.mark.parametrize("variant", [v for v in ONCE if not v.info.equal_ranks], ids=str)
def test_rounds_stay_finite_and_deterministic(variant: Variant):
    one, two = (rounds(variant.method, COHORTS)[-1].after for _ in range(2))
    assert one.adapter.identical(two.adapter)
    assert one.adapter.first_not_finite() is None
    if one.base_change is not None and two.base_change is not None:
        assert one.base_change.identical(two.base_change)
