"""Which rank indices a client has, where they are drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from polyrank.aggregation import build
from polyrank.aggregation.kernels.drawn import drawn
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ServerState

SERVER = ServerState(3, Adapter({"m": Factors(torch.ones(5, 2), torch.ones(3, 5), 2.0)}), {}, {}, seed=11)


def test_a_draw_depends_on_seed_round_and_client_alone():
    first = drawn(SERVER, "ann", 10, 40)
    assert first.tolist() == sorted(set(first.tolist()))
    assert set(first.tolist()) <= set(range(40))
    assert torch.equal(first, drawn(replace(SERVER, ranks={"ann": 10}, scales={"ann": 7.0}), "ann", 10, 40))
    others = (
        drawn(replace(SERVER, seed=12), "ann", 10, 40),
        drawn(replace(SERVER, round=4), "ann", 10, 40),
        drawn(SERVER, "bob", 10, 40),
    )
    assert all(not torch.equal(first, other) for other in others)


def test_all_rank_indices_are_all_of_them():
    assert drawn(SERVER, "ann", 5, 5).tolist() == [0, 1, 2, 3, 4]


def test_every_set_is_as_likely():
    """Two of four: six sets, 1000 times each of 6000; the standard deviation is sqrt(6000 / 6 * 5 / 6) = 29."""
    counts = Counter(tuple(drawn(SERVER, f"client {i}", 2, 4).tolist()) for i in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values()), counts


def test_modules_of_other_ranks_have_draws_of_their_own_and_equal_ones_share_one():
    wide = Factors(torch.ones(30, 2), torch.ones(3, 30))
    server = replace(SERVER, adapter=Adapter({"q": wide, "k": wide, "v": SERVER.adapter.modules["m"]}))
    own = build("fslora").indices(server, "ann", {"q": 20, "k": 20, "v": 3})
    assert torch.equal(own["q"], own["k"])
    assert own["v"].max() < 5
    sent = build("fslora").read_out(server, 20, "ann").adapter
    assert sent.ranks == {"q": 20, "k": 20, "v": 5}
    assert [factors.scale for factors in sent.modules.values()] == [1.5, 1.5, 2.0]


def test_sketches_are_the_whole_on_average():
    """The mean of ``R / r`` over those that drew a rank index, for each of 5: 1 but for the spread of 2000 draws."""
    total = torch.zeros(5)
    for i in range(2000):
        total[drawn(SERVER, f"client {i}", 2, 5)] += build("fslora").scaled_up(2, 5)
    assert float((total / 2000 - 1).abs().max()) < 5 * (2.5 * 0.6) ** 0.5 / 2000**0.5
