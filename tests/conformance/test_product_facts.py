"""What is particular to methods of products and of one factor, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.aggregation import Aggregate, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import SHAPES, UNEQUAL, Adding, Member, aggregate, conclude, make
from tests.conformance.oracle import Array, best, clients_of, model, target


def diagonal(*values: float, scale: float = 1.0) -> Adapter:
    """A square layer whose update is ``diag(values)``: A is the identity and B carries the values."""
    n = len(values)
    b = torch.diag(torch.tensor(values, dtype=torch.float64)) / scale
    return Adapter({"m": Factors(torch.eye(n, dtype=torch.float64), b, scale)})


def server(adapter: Adapter, base_change: Adapter | None = None) -> ServerState:
    return ServerState(1, adapter, {}, {}, base_change=base_change)


def send(*clients: tuple[float, Adapter]) -> list[ClientUpdate]:
    return [ClientUpdate(f"client {k}", adapter, weight) for k, (weight, adapter) in enumerate(clients)]


def change(result: Aggregate) -> list[list[float]]:
    return model(result).change("m").round(12).tolist()


@pytest.mark.parametrize(
    ("tau", "p"), [(0.01, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.93, 3), (math.nextafter(1, 0), 3), (1.0, 3)]
)
def test_florist_keeps_the_smallest_p(tau: float, p: int):
    """Singular values 3, 2, 1 have the energies 9, 4, 1 of 14: one holds 9/14 = 0.643, two hold 13/14 = 0.929."""
    result = conclude(build("florist", {"tau": tau}), server(diagonal(0, 0, 0)), send((2.0, diagonal(1.0, 3.0, 2.0))))
    assert result.metrics["kept_rank"] == p
    kept = {1: (0.0, 3.0, 0.0), 2: (0.0, 3.0, 2.0), 3: (1.0, 3.0, 2.0)}[p]
    assert change(result) == np.diag(kept).tolist()


def test_florist_of_nothing_is_nothing():
    """An energy of 0 has no share to reach."""
    result = conclude(build("florist"), server(diagonal(0, 0)), send((1.0, diagonal(0.0, 0.0))))
    assert change(result) == [[0.0, 0.0], [0.0, 0.0]]
    assert result.metrics["compression_error"] == 0.0


def test_florist_tells_the_rank_it_kept_as_a_mean_over_modules():
    """One layer needs both of its singular values, 1 and 1; the other has one, 5 against 0: (2 + 1) / 2."""
    both = diagonal(1.0, 1.0).modules["m"], diagonal(5.0, 0.0).modules["m"]
    sent = Adapter(dict(zip(("q", "v"), both, strict=True)))
    result = conclude(build("florist"), server(sent), send((1.0, sent)))
    assert result.metrics["kept_rank"] == 1.5


@pytest.mark.parametrize("name", ["flora", "florist"])
def test_a_cut_of_the_base_change_is_reported(name: str):
    """Singular values 4 and 3, and a cut to rank 1: 3 of 5 are lost, 0.6."""
    options: dict[str, object] = {"max_rank": 1} | ({"tau": 1.0} if name == "florist" else {})
    result = conclude(build(name, options), server(diagonal(0, 0)), send((1.0, diagonal(3.0, 4.0))))
    assert result.base_change is not None
    assert result.base_change.rank == 1
    assert result.metrics["compression_error"] == pytest.approx(0.6, rel=1e-12)
    assert change(result) == [[0.0, 0.0], [0.0, 4.0]]


def test_fedhl_weighs_by_what_the_cut_lost():
    """W = diag(2, 1), ``|W|^2 = 5``. The rank-1 client lost 1 of it: 1/5; the rank-2 client nothing.

    With eps = 1/5 the weights are 1 / (2/5) : 1 / (1/5) = 1 : 2, so 1/3 and 2/3, whatever the numbers of examples. The
    rank-1 client goes from diag(2, 0) to diag(8, 0), the other from diag(2, 1) to diag(2, 4): W becomes
    diag(2 + 6/3, 1 + 3 * 2/3) = diag(4, 3).
    """
    one = Adapter({"m": diagonal(8.0, 0.0).modules["m"].prefix(1)})
    updates = send((70.0, one), (1.0, diagonal(2.0, 4.0, scale=0.5)))
    result = conclude(build("fedhl", {"eps": 0.2}), server(diagonal(2.0, 1.0)), updates)
    assert change(result) == [[4.0, 0.0], [0.0, 3.0]]
    assert result.base_change is None


def test_fedhl_weighs_by_examples():
    """The same clients with 3/4 and 1/4 of the examples: diag(2 + 6 * 3/4, 1 + 3 / 4) = diag(6.5, 1.75)."""
    one = Adapter({"m": diagonal(8.0, 0.0).modules["m"].prefix(1)})
    updates = send((3.0, one), (1.0, diagonal(2.0, 4.0)))
    result = conclude(build("fedhl", {"weights": "examples"}), server(diagonal(2.0, 1.0)), updates)
    assert change(result) == [[6.5, 0.0], [0.0, 1.75]]


def test_fedhl_counts_the_base_change_as_lost_by_all():
    """W = diag(2, 0) + diag(0, 1) beside it: the client of the global rank lost 1/5 too, so both weigh the same."""
    state = server(diagonal(2.0, 0.0), diagonal(0.0, 1.0))
    one = Adapter({"m": diagonal(8.0, 0.0).modules["m"].prefix(1)})
    result = conclude(build("fedhl", {"eps": 0.2}), state, send((70.0, one), (1.0, diagonal(4.0, 0.0))))
    assert change(result) == [[6.0, 0.0], [0.0, 1.0]]  # 2 + (6 + 2) / 2


@pytest.mark.parametrize(
    ("options", "values", "p"),
    [
        ({}, (9.0, 8.6, 3.0, 2.0, 1.0), 2),
        ({}, (3.0, 2.9, 2.8), 1),
        ({}, (10.0, 6.0, 2.0, 1.0), 1),
        ({}, (9.0, 8.0, 0.0, 0.0, 0.0), 1),
        ({}, (0.0, 0.0, 0.0), 1),
        ({"noise": 0.5}, (9.0, 2.4, 2.3, 1.0), 2),
        ({"noise": 0.0}, (9.0, 2.0, 0.0), 2),
    ],
)
def test_spectral_keeps_what_is_above_the_threshold(options: dict[str, object], values: tuple[float, ...], p: int):
    """Square layers: 0.56 - 0.95 + 1.82 + 1.43 = 2.86 times the median; at least one value is kept.

    Medians of 3, 2.9 and (6 + 2) / 2 make 8.58, 8.29 and 11.44. Zeros are no noise: the median of 9 and 8 is 8.5, not
    0. Known noise of 1/2 in a layer of 4 x 4 makes 4 / sqrt(3) * sqrt(4) * 1/2 = 2.31; with none all but zeros stay.
    """
    result = conclude(build("spectral", options), server(diagonal(*values)), send((2.0, diagonal(*values))))
    assert result.metrics["kept_rank"] == p


_ranks = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@settings(deadline=None, max_examples=25)
@given(ranks=_ranks, weights=st.sampled_from(["tail", "examples"]), seed=st.integers(0, 99))
def test_fedhl_is_unbiased_in_the_change(ranks: list[int], weights: str, seed: int):
    """Clients that change nothing leave W as it was, whatever was cut off on their way down."""
    it = make([Member.of(f"client {k}", 1.0 + k, r, 1.0) for k, r in enumerate(ranks)], 6, seed=seed)
    method = build("fedhl", {"weights": weights})
    starts = [method.read_out(it.server, r, "").adapter for r in ranks]
    still = [ClientUpdate(u.client, s, u.weight) for u, s in zip(it.updates, starts, strict=True)]
    before = model(it.server)
    rested = model(conclude(method, it.server, still))
    for name in SHAPES:
        np.testing.assert_allclose(rested.change(name), before.change(name), atol=1e-10)


def in_segments(updates: Sequence[ClientUpdate], levels: Sequence[int], module: str) -> Array:
    """RaFLoRA as the paper writes it: between two configured levels, the mean over the clients that reach the upper."""
    clients = clients_of(updates)
    out = np.zeros(SHAPES[module])
    lower = 0
    for upper in levels:
        reach = [client for client in clients if client.rank(module) >= upper]
        weight = sum(client.weight for client in reach)
        for client in reach:
            adapter = client.adapter
            part = adapter.b[module][:, lower:upper] @ adapter.a[module][lower:upper]
            out = out + client.weight / weight * adapter.scale[module] * part
        lower = upper
    return out


@pytest.mark.parametrize("levels", [(1, 3, 6), (1, 2, 3, 4, 5, 6)], ids=["configured", "finer"])
@pytest.mark.parametrize("fixture", ["three_levels", "levels_after", "unowned_tail"])
def test_raflora_is_the_mean_over_segments(fixture: str, levels: tuple[int, ...]):
    """Every client that counts has one of the levels, so the owners of j are those who reach j's segment."""
    it = UNEQUAL[fixture](torch.float64)
    result = model(Aggregate(aggregate(build("raflora"), it.server, it.updates)))
    for module, factors in it.server.adapter.modules.items():
        wanted = best(in_segments(it.updates, levels, module), factors.rank)
        np.testing.assert_allclose(result.change(module), wanted, atol=1e-11)


def test_raflora_by_hand():
    """Weights 3 and 1, ranks 1 and 2: index 0 is (3 * 4 + 1 * 8) / 4 = 5, index 1 the second client's 6, undiluted."""
    low = Adapter({"m": diagonal(4.0, 0.0).modules["m"].prefix(1)})
    result = conclude(build("raflora"), server(diagonal(0, 0)), send((3.0, low), (1.0, diagonal(8.0, 6.0))))
    assert change(result) == [[5.0, 0.0], [0.0, 6.0]]


@pytest.mark.parametrize("name", ["flexlora", "raflora"])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_prefix_is_the_best_approximation_of_its_rank(name: str, rank: int):
    """So a client's read-out is its own truncated SVD."""
    it = UNEQUAL["three_levels"](torch.float64)
    method = build(name)
    result = aggregate(method, it.server, it.updates)
    start = method.read_out(ServerState(2, result, {}, {}), rank, "").adapter
    for module, factors in start.modules.items():
        np.testing.assert_allclose(factors.delta(), best(result.modules[module].delta().numpy(), rank), atol=1e-11)


def test_flexlora_has_the_form_of_an_svd():
    """``A A^T = I``, B's columns are orthogonal, their norms the singular values over s, the largest entry positive."""
    it = UNEQUAL["three_levels"](torch.float64)
    wanted = target(it.updates)
    for module, factors in aggregate(build("flexlora"), it.server, it.updates).modules.items():
        s = np.linalg.svd(wanted[module], compute_uv=False)[:6]
        torch.testing.assert_close(factors.a @ factors.a.T, torch.eye(6, dtype=torch.float64))
        gram = (factors.scale * factors.b).T @ (factors.scale * factors.b)
        np.testing.assert_allclose(gram, np.diag(s**2), atol=1e-9 * s[0] ** 2)
        assert bool((factors.b.gather(0, factors.b.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_flexlora_balanced_puts_the_roots_on_both_sides():
    """``A A^T`` has the singular values, ``B^T B`` theirs over s^2."""
    it = UNEQUAL["three_levels"](torch.float64)
    wanted = target(it.updates)
    for module, factors in aggregate(build("flexlora", {"balanced": True}), it.server, it.updates).modules.items():
        s = np.diag(np.linalg.svd(wanted[module], compute_uv=False)[:6])
        np.testing.assert_allclose(factors.a @ factors.a.T, s, atol=1e-9 * s[0, 0])
        np.testing.assert_allclose(factors.scale**2 * factors.b.T @ factors.b, s, atol=1e-9 * s[0, 0])


def _ranks_of(accumulator: Adding) -> dict[str, int]:
    """Memory: the rows that are kept, by module."""
    return {name: sum(t.factors.rank for t in terms) for name, terms in accumulator.sums.terms.items()}


@settings(deadline=None, max_examples=20)
@given(
    compress=st.sampled_from([0.0, 1e-3, 0.05, 0.3]),
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    split=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_flexlora_compresses_within_its_tolerance(compress: float, ranks: list[int], split: int, seed: int):
    """What is kept never has more rows than the layer, and the error is at most the sum over the cuts of their share.

    A cut of the weighted sum so far loses at most ``compress`` of its norm; at most one cut for every client added and
    one for the merge. Off, all rows are kept. The bound is on the mean, so the global rank is the layer's here.
    """
    it = make([Member.of(f"client {k:02}", 1.0 + k % 3, r, 1.0) for k, r in enumerate(ranks)], 8, seed=seed)
    method = build("flexlora", {"compress": compress})
    first, second, off = (Adding(each, it.server) for each in (method, method, build("flexlora")))
    for k, update in enumerate(it.updates):
        part = first if k < split else second
        part.add(update)
        off.add(update)
        for name, rows in _ranks_of(part).items():
            assert rows <= min(SHAPES[name])
    first.merge(second)
    assert all(rows <= min(SHAPES[name]) for name, rows in _ranks_of(first).items())
    assert set(_ranks_of(off).values()) == {sum(ranks)}
    result, wanted = model(first.finish()), target(it.updates)
    total = sum(update.weight for update in it.updates)
    for name in SHAPES:
        sums, bound = {True: np.zeros(SHAPES[name]), False: np.zeros(SHAPES[name])}, 0.0
        for k, client in enumerate(clients_of(it.updates)):
            sums[k < split] = sums[k < split] + client.weight / total * client.adapter.delta(name)
            bound += (1 + compress) ** len(ranks) * compress * float(np.linalg.norm(sums[k < split]))
        bound += (1 + compress) ** len(ranks) * compress * float(np.linalg.norm(wanted[name]))
        whole = best(wanted[name], 8)  # 8 is above the smaller side of the first layer and is it in the second
        assert np.linalg.norm(result.change(name) - whole) <= bound + 1e-9


@pytest.mark.parametrize(("compress", "kept"), [(0.0, 3), (0.26, 3), (0.27, 2), (0.59, 2), (0.6, 1), (0.99, 1)])
def test_flexlora_cuts_at_the_tolerance(compress: float, kept: int):
    """Singular values 3, 2, 1, norm sqrt(14): without the last 0.267 is lost, without two sqrt(5 / 14) = 0.598.

    A second client of a fourth row passes the rank of the 3 x 3 layer and makes the cut; its own update is 0.
    """
    accumulator = Adding(build("flexlora", {"compress": compress}), server(diagonal(0, 0, 0)))
    nothing = Adapter({"m": diagonal(0.0, 0.0, 0.0).modules["m"].prefix(1)})
    for update in send((1.0, diagonal(3.0, 2.0, 1.0)), (1.0, nothing)):
        accumulator.add(update)
    if compress:
        assert _ranks_of(accumulator) == {"m": kept}
    halves = [x / 2 if k < kept else 0.0 for k, x in enumerate((3.0, 2.0, 1.0))]
    assert change(accumulator.finish()) == np.diag(halves).tolist()


def test_fedex_by_hand():
    """A = B = 1 and A = B = 3, equal weights: the factor mean is 2 * 2 = 4, the mean of products 5, the residual 1."""
    one, three = (Adapter({"m": diagonal(1.0).modules["m"].map(lambda t, k=k: k * t)}) for k in (1.0, 3.0))
    result = conclude(build("fedex"), server(diagonal(7.0)), send((1.0, one), (1.0, three)))
    factors = result.adapter.modules["m"]
    assert (factors.a.item(), factors.b.item()) == (2.0, 2.0)
    assert result.base_change is not None
    assert result.base_change.modules["m"].delta().item() == pytest.approx(1.0, rel=1e-12)


def test_fedex_freezes_what_a_client_lacks():
    """The previous adapter is diag(1, 10), ranks 1 and 2 with weights 3 and 1, A the identity throughout.

    The low client trains index 0 and has index 1 beside it, as it was: its model is diag(4, 10), the other's
    diag(8, 6). The mean is diag(5, 9). The owners' mean of the factors is diag(5, 6), so 3 of index 1 goes
    into the base change.
    """
    low = Adapter({"m": diagonal(4.0, 0.0).modules["m"].prefix(1)})
    state = server(diagonal(1.0, 10.0))
    result = conclude(build("fedex"), state, send((3.0, low), (1.0, diagonal(8.0, 6.0))))
    assert result.adapter.modules["m"].delta().tolist() == [[5.0, 0.0], [0.0, 6.0]]
    assert change(result) == [[5.0, 0.0], [0.0, 9.0]]
    download = build("fedex").read_out(state, 1, "")
    assert download.base_change is not None
    assert download.base_change.modules["m"].delta().numpy().round(12).tolist() == [[0.0, 0.0], [0.0, 10.0]]
    assert build("fedex").read_out(state, 2, "").base_change is None


@pytest.mark.parametrize(("lam", "b"), [(1.0, 2.4), (1e-12, 2.5), (1e12, 2.0)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_lora_fair_by_hand(lam: float, b: float, scale: float):
    """A = B = 1 and 3: means 2 and 2, mean of products 5, so 5 - 4 = 1 is missed.

    ``dB = 1 * 2 / (4 + lam)``: 0.4 at lam = 1; 0.5, and the product is 5, at lam near 0; nothing at a large one. At a
    global scale of 1/2 all of B is twice as large.
    """
    one, three = (Adapter({"m": diagonal(1.0).modules["m"].map(lambda t, k=k: k * t)}) for k in (1.0, 3.0))
    state = server(diagonal(7.0, scale=scale))
    found = conclude(build("lora_fair", {"lam": lam}), state, send((1.0, one), (1.0, three))).adapter.modules["m"]
    assert found.a.item() == 2.0
    assert found.b.item() == pytest.approx(b / scale, rel=1e-9)


def test_lora_fair_is_nearer_to_the_mean_than_the_owners_mean():
    """In every module, as ridge regression can but gain on what it starts from."""
    it = UNEQUAL["three_levels"](torch.float64)
    wanted = target(it.updates)
    fair, mean = (aggregate(build(name), it.server, it.updates) for name in ("lora_fair", "owner_mean"))
    for module in SHAPES:
        torch.testing.assert_close(fair.modules[module].a, mean.modules[module].a)
        gaps = [np.linalg.norm(x.modules[module].delta().numpy() - wanted[module]) for x in (fair, mean)]
        assert gaps[0] < gaps[1]


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("name", ["ffa", "fedsa", "rolora"])
def test_the_other_factor_is_the_servers_to_the_last_bit(name: str, rounds: int):
    """ffa averages B, fedsa A; rolora B in round 1 and A in round 2."""
    it = UNEQUAL["three_levels"](torch.float64)
    state = ServerState(rounds, it.server.adapter, {}, {})
    kept = {"ffa": "a", "fedsa": "b", "rolora": "ab"[rounds]}[name]
    for module, factors in aggregate(build(name), state, it.updates).modules.items():
        for side in ("a", "b"):
            same = torch.equal(getattr(factors, side), getattr(state.adapter.modules[module], side))
            assert same == (side == kept)


def test_rolora_keeps_a_row_that_would_be_zero_in_both():
    """Two rows, the client has the first. In an even round A's row 1 is unowned: 0 where B's column is not, else kept.

    ``s B A`` of that row is 0 either way, which is the mean of the products; kept, it can still learn.
    """
    low = Adapter({"m": diagonal(4.0, 0.0).modules["m"].prefix(1)})
    for column, row in ((3.0, 0.0), (0.0, 1.0)):
        state = server(diagonal(2.0, column))
        found = aggregate(build("rolora"), state, send((1.0, low))).modules["m"]
        assert found.a[1].tolist() == [0.0, row]
        assert found.b[:, 1].tolist() == [0.0, column]


def test_fedsvd_multiplies_by_the_scale_in_float32():
    """B = 40000 at scale 2 is 80000, above float16's 65504; A = (1, 0), so B comes back over the scale as 40000."""
    a, b = torch.tensor([[1.0, 0.0]], dtype=torch.float16), torch.full((1, 1), 40000.0, dtype=torch.float16)
    sent = Adapter({"m": Factors(a, b, 2.0)})
    found = aggregate(build("fedsvd"), server(sent), send((1.0, sent))).modules["m"]
    assert found.a.tolist() == [[1.0, 0.0]]
    assert found.b.item() == 40000.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flora", {"max_rank": 0}, "flora: max_rank is 0; expected a rank of 1 or more"),
        ("florist", {"max_rank": -1}, "florist: max_rank is -1"),
        ("fedex", {"max_rank": 0}, "fedex: max_rank is 0"),
        ("fedhl", {"max_rank": 0}, "fedhl: max_rank is 0"),
        ("fedhl", {"eps": 0.0}, "fedhl: eps is 0.0; expected a number above 0"),
        ("fedhl", {"eps": math.inf}, "fedhl: eps is inf"),
        ("fedhl", {"eps": math.nan}, "fedhl: eps is nan"),
        ("florist", {"tau": 0.0}, "florist: tau is 0.0; expected a share above 0 and at most 1"),
        ("florist", {"tau": 1.1}, "florist: tau is 1.1"),
        ("florist", {"tau": math.nan}, "florist: tau is nan"),
        ("flexlora", {"compress": 1.0}, "flexlora: compress is 1.0; expected a share of the norm from 0 to below 1"),
        ("flexlora", {"compress": -0.1}, "flexlora: compress is -0.1"),
        ("flexlora", {"compress": math.nan}, "flexlora: compress is nan"),
        ("spectral", {"noise": -1.0}, "spectral: noise is -1.0; expected a number of 0 or more"),
        ("spectral", {"noise": math.inf}, "spectral: noise is inf"),
        ("lora_fair", {"lam": 0.0}, "lora_fair: lam is 0.0; expected a number above 0"),
        ("lora_fair", {"lam": math.inf}, "lora_fair: lam is inf"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        build(name, options)
