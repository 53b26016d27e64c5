"""The highest rank that a client's means allow, and the ``[ranks]`` that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polyrank.config import Config
from polyrank.core.errors import ConfigError
from polyrank.core.text import size
from polyrank.federation import traffic
from polyrank.federation.planning.outlook import Outlook
from polyrank.federation.round import nbytes


def rank_for_uplink(ahead: Outlook, budget: int) -> int:
    """The highest rank whose update is at most so many bytes in every round.

    Raises:
        ConfigError: rank 1 needs more; it says how much.
    """
    return _highest(ahead, budget, lambda rank: uplink(ahead, rank), "an uplink of {} a round", ("sends", "the head"))


def rank_for_memory(ahead: Outlook, budget: int, held: Callable[[int], int]) -> int:
    """The highest rank with which a client holds at most so many bytes.

    Args:
        ahead: the federation.
        budget: in bytes.
        held: rank -> bytes that a client holds.

    Raises:
        ConfigError: rank 1 needs more; it says how much.
    """
    less = "" if ahead.config.model.quantization != "none" else '; model.quantization = "nf4" holds the base in less'
    return _highest(ahead, budget, held, "{} of memory", ("holds", "base and head"), advice=less)


def uplink(ahead: Outlook, rank: int) -> int:
    """The most bytes that a client of this rank sends in a round."""
    whole = ahead.widest if ahead.method.info.chooses_indices else ahead.widest.prefix(rank)
    sent = [
        traffic.up(parts, traffic.sent_back(ahead.method, whole, rank, parts.sends, most=True))
        for parts in (ahead.parts(1), ahead.parts(2))
    ]
    if ahead.clients.policy.scores:
        sent.append(nbytes(ahead.widest.prefix(rank), ahead.parts(1).trains))
    return max(sent)


def _highest(
    ahead: Outlook,
    budget: int,
    needed: Callable[[int], int],
    what: str,
    words: tuple[str, str],
    *,
    advice: str = "",
) -> int:
    low, high = 0, ahead.widest.rank
    if (least := needed(1)) > budget:
        does, rest = words
        more = f", {size(others)} of it for {rest}" if (others := needed(0)) else ""
        found = f"{what.format(size(budget))} is too little: a client of rank 1 {does} {size(least)}{more}"
        raise ConfigError(f"{found}{advice}")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle) <= budget else (low, middle - 1)
    return low


def with_levels(config: Config, found: Sequence[int]) -> dict[str, Any]:  # Any: TOML values
    """The keys of ``[ranks]`` that are set, with these levels in the place of its own.

    Shares and counts stay where there are as many levels as before, and names at most at the highest one.
    """
    levels = sorted(set(found))
    table: dict[str, Any] = {**config.ranks.model_dump(exclude_unset=True, exclude_none=True), "levels": levels}
    if len(levels) != len(config.ranks.levels):
        table = {key: value for key, value in table.items() if key not in ("shares", "counts")}
    if table.get("by_name"):
        table["by_name"] = {name: min(rank, levels[-1]) for name, rank in config.ranks.by_name.items()}
    return table
