from __future__ import annotations

import pytest
import torch

from polyrank.config import RanksConfig
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate
from polyrank.ranks import policy
from polyrank.ranks.self_pruning import SelfPruning, tail


def pruning(**settings: object) -> SelfPruning:
    config = RanksConfig.model_validate({"policy": "self_pruning", "levels": [2, 8], "counts": [1, 3]} | settings)
    chosen = policy(config)
    assert isinstance(chosen, SelfPruning)
    return chosen


def row_sizes(*sizes: float) -> Adapter:
    """One module whose row j of A is (0, size j) and whose column j of B is (size j)."""
    numbers = torch.tensor(sizes)
    return Adapter({"m": Factors(torch.stack([0 * numbers, numbers], dim=1), numbers[None, :].clone(), 2.0)})


def test_it_starts_as_fixed_ranks_and_scores_nobody():
    chosen = pruning()
    assert chosen.start(("d", "b", "a", "c"), {}, 0) == {"a": 8, "b": 8, "c": 8, "d": 2}
    assert chosen.prunes
    assert not chosen.scores
    named = pruning(by_name={"b": 3})
    assert named.start(("d", "b", "a", "c"), {}, 0)["b"] == 3


@pytest.mark.parametrize("name", ["fixed", "random", "validation"])
def test_no_other_policy_prunes(name: str):
    other = policy(RanksConfig.model_validate({"policy": name}))
    assert not other.prunes
    assert other.shrunk(20) == 20
    assert other.adapt({"a": 20}, {"a": row_sizes(1.0)}, [ClientUpdate("a", row_sizes(0.5), 1.0)]) == {"a": 20}


@pytest.mark.parametrize(
    ("keep", "rank", "expected"),
    [
        (0.99, 8, 7),  # 7.92
        (0.5, 8, 4),
        (0.5, 7, 3),  # 3.5
        (0.1, 8, 2),  # 0.8, below the lowest level
        (0.99, 3, 2),
        (0.99, 2, 2),  # there already
        (0.5, 1, 1),  # by name, below the lowest level: not raised to it
    ],
)
def test_what_a_client_may_shrink_to(keep: float, rank: int, expected: int):
    assert pruning(prune_keep=keep).shrunk(rank) == expected


def test_the_tail_by_hand():
    """Rows and columns from index 1 on: |B| |A| = |(3, 4)| |(3, 4)| = 25, and |(6)| |(6)| = 36 in the other module."""
    two = Adapter({"m": row_sizes(1, 3, 4).modules["m"], "n": row_sizes(2, 6).modules["m"]})
    assert tail(two, 1) == pytest.approx(25 + 36)
    assert tail(two, 2) == pytest.approx(16 + 0)
    assert tail(two, 3) == 0


@pytest.mark.parametrize(
    ("started", "trained", "after"),
    [
        ((1.0, 1.0, 1.0, 2.0), (9.0, 9.0, 9.0, 1.9), 3),  # the tail got smaller, whatever the rest did
        ((1.0, 1.0, 1.0, 2.0), (0.1, 0.1, 0.1, 2.1), 4),  # the tail got larger
        ((1.0, 1.0, 1.0, 2.0), (1.0, 1.0, 1.0, 2.0), 4),  # it stayed
        ((1.0, 1.0, 1.0, 0.0), (1.0, 1.0, 1.0, 0.5), 4),  # as in a client's first round: B starts at zero
    ],
)
def test_a_client_shrinks_if_its_tail_got_smaller_and_not_otherwise(
    started: tuple[float, ...], trained: tuple[float, ...], after: int
):
    """Rank 4 and a share of 0.8: q = floor(3.2) = 3, and the tail is the last rank index. ann takes no part."""
    ranks = {"ann": 4, "bob": 4}
    update = ClientUpdate("bob", row_sizes(*trained), 1.0)
    chosen = pruning(prune_keep=0.8)
    assert chosen.adapt(ranks, {"bob": row_sizes(*started)}, [update]) == {"ann": 4, "bob": after}
    assert ranks == {"ann": 4, "bob": 4}


def test_nobody_goes_below_the_lowest_level():
    """Rank 3 falls to 2 and stays there, however much smaller its tail gets."""
    chosen, ranks = pruning(prune_keep=0.1), {"bob": 3}
    for _ in range(3):
        small, large = row_sizes(*[0.1] * ranks["bob"]), row_sizes(*[5.0] * ranks["bob"])
        ranks = chosen.adapt(ranks, {"bob": large}, [ClientUpdate("bob", small, 1.0)])
        assert ranks == {"bob": 2}
