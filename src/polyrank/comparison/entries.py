"""What is compared: methods with their options, and homogeneous baselines, each as a configuration of its own."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyrank import aggregation
from polyrank.aggregation import METHODS
from polyrank.config import Config
from polyrank.config.variants import with_method, with_one_rank
from polyrank.core.errors import ConfigError
from polyrank.federation.planned import planned_ranks
from polyrank.ranks import policy
from polyrank.tasks import settled

DEFAULT_METHODS = ("replication", "zero_padding", "tempered", "flexlora", "fedavg")
"""The seed paper's method, its baseline, the strongest of ours, the mean of the products, and equal ranks."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Args:
        name: for people and for the folder of its runs.
        config: of its runs, but for the seed.
    """

    name: str
    config: Config

    def seeded(self, seed: int) -> Config:
        """The configuration of one run."""
        federation = self.config.federation.model_copy(update={"seed": seed})
        return self.config.model_copy(update={"federation": federation})


def entries(config: Config, methods: Sequence[str], baseline_ranks: Sequence[int] | None = None) -> list[Entry]:
    """One entry per method, and one per rank of a method that needs equal ranks.

    Args:
        config: what all have in common.
        methods: names, each with options if wanted: ``tempered:gamma=0.25:align=rotation``. Where a method is the
            configuration's own and comes without options, the configuration's options hold.
        baseline_ranks: of methods that need equal ranks; by default those of `homogeneous_ranks`.

    Raises:
        ConfigError: a method or an option is unknown, or one comes twice.
    """
    config = settled(config)
    asked = [_read(text) for text in methods]
    judging = any(name in METHODS and METHODS[name].info.judges for name, _ in asked)
    if judging and not policy(config.ranks).scores:
        # one of them holds out a validation set, so all do: else they would be compared on other data
        config = config.model_copy(update={"data": config.data.model_copy(update={"hold_out": True})})
    found: list[Entry] = []
    for name, options in asked:
        own = with_method(config, name, options)
        method = aggregation.configured(own.aggregation)
        label = "-".join([name, *(f"{key}-{value}" for key, value in own.aggregation.options.items())])
        if not method.info.equal_ranks:
            found.append(Entry(label, own))
            continue
        for rank in homogeneous_ranks(config) if baseline_ranks is None else baseline_ranks:
            found.append(Entry(f"{label}-rank-{rank}", with_one_rank(own, rank)))
    names = [entry.name for entry in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--methods: {name} comes {names.count(name)} times; expected each once")
    return found


def homogeneous_ranks(config: Config) -> list[int]:
    """The lowest rank, the rank of the mean cost, and the highest; fewer where they coincide.

    The mean cost is the clients' mean rank as the run begins, ``ranks.by_name`` included, rounded up, so that the
    baseline is never the cheaper one; for the 5 and 20 of Byun and Lee it is 6.5, and 7 as in their tables. Where a
    group of a drawn partition has a rank of its own, it is that of ``federation.seed``.

    Raises:
        PolyRankError: as `polyrank.federation.planned.planned_ranks`.
    """
    ranks = planned_ranks(config)
    return sorted({ranks[0], -(-sum(ranks) // len(ranks)), ranks[-1]})


def _read(text: str) -> tuple[str, dict[str, Any]]:  # Any: TOML values
    name, *pairs = (part.strip() for part in text.split(":"))
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (name and key and equals and value):
            raise ConfigError(f"--methods {text}: expected name:option=value, for example tempered:gamma=0.25")
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value  # a bare word is a string
    return name, options
