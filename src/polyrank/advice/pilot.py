"""A few rounds of some methods on a configuration's own clients, compared on the server's validation set."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from polyrank import aggregation
from polyrank.config import Config
from polyrank.config.variants import with_method
from polyrank.core.state import ServerState
from polyrank.federation.gathering import in_the_clear
from polyrank.federation.round import with_ranks
from polyrank.federation.scoring import score_clients
from polyrank.federation.server import Server, build
from polyrank.tasks.task import LOSS

PILOT_ROUNDS = 4
"""Of each candidate. An assumption of ours: the shortest from which differences repeat."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """What is tried.

    Args:
        method: its name.
        lr_share: of the configuration's learning rate.
        rank: of every client; None for the ranks of the configuration.
    """

    method: str
    lr_share: float = 1.0
    rank: int | None = None

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", rank {self.rank} for all"
        rate = "" if self.lr_share == 1 else f", {self.lr_share:.2g} of the learning rate"
        return f"{self.method}{rank}{rate}"


@dataclass(frozen=True)
class Trial:
    """What a candidate came to.

    Args:
        candidate: it.
        losses: on the validation set, after each round.
        seconds: that it took.
    """

    candidate: Candidate
    losses: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Over the rounds; a loss that is not finite is infinitely bad."""
        return statistics.fmean(loss if math.isfinite(loss) else math.inf for loss in self.losses)


def pilot(config: Config, candidates: Sequence[Candidate], rounds: int, tell: Told) -> list[Trial]:
    """Every candidate from the same start, on the same clients and cohorts, with the same validation set.

    The test set is not looked at. Nothing is written.

    Args:
        config: of the federation.
        candidates: that are tried.
        rounds: of each.
        tell: is told what is being done.

    Raises:
        PolyRankError: something in the configuration, the data or the model does not fit.
    """
    tell("loading")
    server = build(with_method(config, "validated"))  # which holds out the validation set
    try:
        state = server.initial_state()
        tell("scoring clients" if server.policy.scores else "starting")
        state, _ = score_clients(server, state, _quiet, {})
        found = []
        for number, candidate in enumerate(candidates, 1):
            tell(f"{candidate} ({number} of {len(candidates)})")
            found.append(_tried(server, state, candidate, rounds))
        return found
    finally:
        server.close()


def _quiet(done: int, of: int) -> None:
    """Nobody is told of single clients."""


def _tried(server: Server, state: ServerState, candidate: Candidate, rounds: int) -> Trial:
    start, held = time.perf_counter(), server.site.validation
    assert held is not None
    method = aggregation.configured(with_method(server.config, candidate.method).aggregation)
    server = replace(server, method=method)
    if candidate.rank is not None:
        ranks = dict.fromkeys(state.ranks, candidate.rank)
        state = with_ranks(state, ranks, server.scales(ranks))
        state = replace(state, adapter=state.adapter.prefix(candidate.rank))
    losses: list[float] = []
    for _ in range(rounds):
        asked = server.ask(state)
        works = [replace(work, lr_share=work.lr_share * candidate.lr_share) for work in asked.works]
        state = in_the_clear(server, state, works, asked.sent, _quiet).result.state
        scores = server.site.measured(state.adapter, state.base_change, held)
        losses.append(scores[LOSS])
    return Trial(candidate, tuple(losses), time.perf_counter() - start)


def ahead(better: Trial, other: Trial) -> tuple[float, int]:
    """By how many nats one is ahead in the mean, and in how many rounds."""
    gaps = [theirs - mine for mine, theirs in zip(better.losses, other.losses, strict=True)]
    return other.mean - better.mean, sum(gap > 0 for gap in gaps)


def clearly(better: Trial, other: Trial) -> bool:
    """Whether the gap is more than its rounds' scatter: twice the standard error of its mean, and in most rounds."""
    gaps = [theirs - mine for mine, theirs in zip(better.losses, other.losses, strict=True)]
    if not all(map(math.isfinite, better.losses)):
        return False
    if not all(map(math.isfinite, gaps)):
        return True
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return statistics.fmean(gaps) > 2 * error and sum(gap > 0 for gap in gaps) > len(gaps) / 2
