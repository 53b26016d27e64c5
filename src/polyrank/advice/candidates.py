"""Which methods a configuration can have at all, and which of them is taken where nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyrank import aggregation, ranks
from polyrank.aggregation import METHODS
from polyrank.config import Config
from polyrank.config.variants import with_method
from polyrank.core.errors import ConfigError
from polyrank.federation.masked import check_secure
from polyrank.federation.planned import Planned, check_method
from polyrank.federation.round import cohort_size

PILOTED = ("validated", "replication", "zero_padding_delta", "fedavg")
"""What a pilot tries: the method that measures, that which trusts the owners of a row, that which does not, and where
ranks are equal the mean. `fedavg` is tried at the lowest rank for everybody, where they are not."""

SURE = "sure"
LIKELY = "likely"
OPEN = "open"
CALM = 5e-3
"""The highest learning rate of a client's round at which replication was not behind in `paper/FINDINGS.md`."""


@dataclass(frozen=True)
class Chosen:
    """A method, and why.

    Args:
        method: its name.
        why: the evidence, as the end of a sentence.
        sure: `SURE`, `LIKELY` or `OPEN`.
    """

    method: str
    why: str
    sure: str


def refusal(config: Config, clients: Planned, name: str) -> str | None:
    """Why the configuration cannot have a method, in the words of the run that would refuse it; None where it can."""
    changed = with_method(config, name)
    try:
        method, policy = aggregation.configured(changed.aggregation), ranks.policy(config.ranks)
        check_method(changed, method, policy, clients.first)
        if config.secure.enabled:
            size = cohort_size(len(clients.first), config.federation.participation)
            check_secure(changed, method, policy, size)
    except ConfigError as error:
        return str(error)
    return None


def possible(config: Config, clients: Planned, names: Sequence[str] = PILOTED) -> list[str]:
    """Those of the methods that the configuration can have."""
    return [name for name in names if refusal(config, clients, name) is None]


def by_rules(config: Config, clients: Planned) -> Chosen:
    """The method where nothing is measured, from what paper/FINDINGS.md found.

    Args:
        config: with its task named.
        clients: who takes part.
    """
    found = possible(config, clients, tuple(METHODS))
    equal = len(set(clients.first.values())) == 1
    if "validated" in found:
        return Chosen(
            "validated",
            "the server can hold out a validation set and weigh clients by it, which was ahead of or level with every "
            "other method in 18 of 19 settings of paper/FINDINGS.md, most of them with one seed",
            LIKELY,
        )
    if equal and "fedavg" in found:
        return Chosen("fedavg", "all clients have one rank, so nothing has to be filled in", SURE)
    if config.privacy.model != "none" and "ffa" in found:
        return Chosen("ffa", "it trains one factor, so that noise enters a product once", OPEN)
    if _follow_data(config) and "replication" in found:
        calm = config.training.lr <= CALM
        return Chosen(
            "replication",
            "clients with better data have the higher ranks, which is the case in which it was ahead"
            + ("" if calm else f"; at learning rates above {CALM:g} it was behind"),
            LIKELY if calm else OPEN,
        )
    for name in ("tempered", "zero_padding_delta", "owner_mean"):
        if name in found:
            return Chosen(
                name,
                "nothing says that the clients of high rank have the better data, and it moves rows of few owners less",
                OPEN,
            )
    return Chosen(found[0], "it is the first that these settings allow", OPEN)


def _follow_data(config: Config) -> bool:
    """Whether high ranks are given for good data: scored, or by the name of the balanced group."""
    given = config.ranks.by_name
    named = bool(given) and given.get("balanced", 0) == max(given.values())
    return ranks.policy(config.ranks).scores or named
