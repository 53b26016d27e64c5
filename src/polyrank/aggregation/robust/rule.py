"""What a robust rule is: what of the clients' updates is added up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from polyrank.aggregation.method import Needs
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True, eq=False)
class Judged:
    """What a rule makes of a round's updates.

    Args:
        updates: what is added up in their place, by the wrapped method; maybe of fewer clients.
        metrics: by name, without prefix.
    """

    updates: Sequence[ClientUpdate]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Rule(ABC):
    """A robust rule: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    """Its name, as written in a configuration."""
    compares_products: ClassVar[bool] = False
    """Whether it looks at ``s_k B_k A_k``, of which the server must have both factors."""

    @abstractmethod
    def judge(self, updates: Sequence[ClientUpdate], before: Adapter) -> Judged:
        """What of the updates is added up.

        Args:
            updates: one or more, in the order of the clients' names, of weight 1 each, in float64; factors at the
                scales of ``before`` and of at most its ranks. A client may lack a module or a dense tensor.
            before: the global adapter; a client of rank r began with the first r rank indices.
        """

    def needs(self, count: int) -> Needs:  # noqa: ARG002  # of the rules that count
        """What the rule needs of a round in which ``count`` clients answer; owners are those that are added up."""
        return Needs()


def check_share(rule: str, hostile: float) -> None:
    """Refuse a share of hostile clients that no rule can hold against.

    Raises:
        ConfigError: it is not above 0 and below 0.5.
    """
    if not 0 < hostile < 0.5:
        raise ConfigError(
            f"robust rule {rule}: hostile is {hostile}; expected a share above 0 and below 0.5, as no rule can tell "
            "which half of the clients is the honest one"
        )


def most_hostile(share: float, clients: int) -> int:
    """How many of so many clients are taken to be hostile: the share, rounded down, and at least one.

    >>> [most_hostile(0.3, n) for n in (1, 3, 10, 20)]
    [1, 1, 3, 6]
    """
    return max(1, math.floor(round(share * clients, 9)))
