"""How many clients get which level, and under which scale a rank trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError

DEFAULT_HIGH_SHARE = 0.1
"""Share of the clients at the highest level where nothing is said: that of Byun and Lee, NAACL 2025."""


def level_counts(config: RanksConfig, clients: int) -> list[int]:
    """Number of clients per level, ascending, with the sum ``clients``.

    Shares are rounded by largest remainders; a level with a positive share gets at least one client where there are
    enough of them.

    Raises:
        ConfigError: the counts do not add up to the number of clients.
    """
    if config.counts is not None:
        if sum(config.counts) != clients:
            each = ", ".join(f"{n} at rank {r}" for n, r in zip(config.counts, config.levels, strict=True))
            raise ConfigError(f"ranks.counts: found {each}, {sum(config.counts)} in all; expected {clients} clients")
        return list(config.counts)
    return _round_shares(config.shares or _default_shares(len(config.levels)), clients)


def _default_shares(levels: int) -> list[float]:
    if levels == 1:
        return [1.0]
    return [1 - DEFAULT_HIGH_SHARE, *[0.0] * (levels - 2), DEFAULT_HIGH_SHARE]


def _round_shares(shares: Sequence[float], clients: int) -> list[int]:
    # the decimal numbers that were meant: 0.145 of 100 is 14.5; and the configuration lets shares add up to nearly 1
    exact = [round(share / sum(shares) * clients, 9) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], -i))
    for i in by_remainder[: clients - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        largest = max(range(len(counts)), key=counts.__getitem__)
        if share > 0 and counts[i] == 0 and counts[largest] > 1:
            counts[i], counts[largest] = 1, counts[largest] - 1
    return counts


def scale_of(rank: int, config: RanksConfig) -> float:
    """The scale ``s`` in ``delta = s B A`` for a client of this rank.

    With ``constant`` all scales are equal (``alpha_k = alpha r_k`` in PEFT's terms), so that averaging rescales
    nothing; ``lora`` and ``rslora`` keep alpha and let the scale fall with the rank.
    """
    if config.scaling == "lora":
        return config.alpha / rank
    if config.scaling == "rslora":
        return config.alpha / math.sqrt(rank)
    return config.alpha
