from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.ranks import level_counts, scale_of


@pytest.mark.parametrize(
    ("shares", "clients", "counts"),
    [
        (None, 100, [90, 10]),
        (None, 10, [9, 1]),
        ([0.5, 0.5], 4, [2, 2]),
        ([0.75, 0.25], 10, [7, 3]),  # 7.5 and 2.5: equal remainders, the higher level first
        ([0.7, 0.3], 9, [6, 3]),  # 6.3 and 2.7: the larger remainder
        ([0.9, 0.1], 3, [2, 1]),  # 2.7 and 0.3: [3, 0] by remainders, but a positive share gets a client
        ([0.9, 0.1], 2, [1, 1]),  # 1.8 and 0.2: the same
        ([0.9, 0.1], 1, [1, 0]),  # one client cannot be divided
        ([1.0, 0.0], 7, [7, 0]),  # a share of nothing gets nobody
        ([0.1, 0.9], 30, [3, 27]),  # 0.1 * 30 is 3.0000000000000004 and 0.9 * 30 is 27
        ([0.855, 0.145], 100, [85, 15]),  # 85.5 and 14.5, which floats make 14.499999999999998: the higher level first
        ([0.5000005, 0.5000004], 10**7, [5000000, 5000000]),  # 5000005 and 5000004 as they stand; 10^7 in all
        ([0.29, 0.71], 100, [29, 71]),  # 0.29 * 100 is 28.999999999999996: not 28
    ],
)
def test_shares_become_counts_by_largest_remainders(shares: list[float] | None, clients: int, counts: list[int]):
    assert level_counts(RanksConfig(shares=shares), clients) == counts


def test_shares_of_three_levels():
    """A third each of eight clients is 2.67: two places are left and go to the higher levels."""
    config = RanksConfig(levels=[2, 4, 8], shares=[1 / 3, 1 / 3, 1 / 3])
    assert level_counts(config, 8) == [2, 3, 3]
    assert level_counts(config, 3) == [1, 1, 1]


def test_by_default_a_tenth_gets_the_highest_level_and_the_rest_the_lowest():
    """Of 20 clients 18 and 2, whatever lies between; one level is for everyone."""
    assert level_counts(RanksConfig(levels=[5]), 20) == [20]
    assert level_counts(RanksConfig(levels=[2, 4, 8]), 20) == [18, 0, 2]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any), st.integers(1, 300))
def test_counts_add_up_and_are_near_the_shares(parts: list[int], clients: int):
    """No level is further from its exact share than one client, or one for each level that was given its first."""
    shares = [part / sum(parts) for part in parts]
    counts = level_counts(RanksConfig(levels=list(range(1, len(parts) + 1)), shares=shares), clients)
    assert sum(counts) == clients
    assert all(abs(count - share * clients) <= len(parts) for count, share in zip(counts, shares, strict=True))
    assert all(count == 0 for count, part in zip(counts, parts, strict=True) if part == 0)
    if clients >= 20 * len(parts):
        assert all(count > 0 for count, part in zip(counts, parts, strict=True) if part > 0)


def test_counts_are_taken_as_they_are():
    assert level_counts(RanksConfig(counts=[3, 2]), 5) == [3, 2]


def test_counts_that_do_not_add_up_are_an_error():
    message = r"ranks\.counts: found 3 at rank 5, 2 at rank 20, 5 in all; expected 6 clients"
    with pytest.raises(ConfigError, match=message):
        level_counts(RanksConfig(counts=[3, 2]), 6)


@pytest.mark.parametrize(("scaling", "scale"), [("constant", 2.0), ("lora", 0.5), ("rslora", 1.0)])
def test_the_scale_of_a_rank(scaling: str, scale: float):
    """alpha 2, rank 4: alpha, alpha / 4, alpha / 2."""
    assert scale_of(4, RanksConfig.model_validate({"scaling": scaling, "alpha": 2.0})) == scale
