"""What a run will send, counted before it starts: the run's own cohorts, read-outs and bytes, on shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polyrank.aggregation import Parts
from polyrank.core.adapter import Adapter, Factors
from polyrank.federation import traffic
from polyrank.federation.planning.outlook import Outlook
from polyrank.federation.round import read_outs
from polyrank.hf.skeleton import META
from polyrank.training.work import Moved


@dataclass(frozen=True)
class Span:
    """A number that is known, or between which bounds it is; ``least`` is None where only the upper one is known."""

    least: int | None
    most: int

    @property
    def exact(self) -> bool:
        """Whether it is known."""
        return self.least == self.most

    def __add__(self, other: Span) -> Span:
        known = self.least is not None and other.least is not None
        return Span((self.least or 0) + (other.least or 0) if known else None, self.most + other.most)


@dataclass(frozen=True)
class Level:
    """A rank of the configuration.

    Args:
        rank: the rank.
        clients: how many have it in the first round.
        parameters: that a client of this rank trains in a round; different in different rounds of some methods.
        up: bytes of a round from such a client.
        down: bytes of a round to it.
    """

    rank: int
    clients: int
    parameters: Span
    up: Span
    down: Span


@dataclass(frozen=True)
class Forecast:
    """What a run will send, where no client fails; in the tensors' own dtypes, as a run on one machine counts.

    Args:
        levels: ascending.
        cohort: clients in a round.
        head: numbers in the head, and in what else is trained whole.
        scoring: bytes of the scoring round.
        up: bytes of all rounds from clients, the scoring round's included.
        down: the same to clients.
        change: the most bytes of a base change that a client is sent; 0 where none is.
        notes: why a total is not known, for people.
    """

    levels: tuple[Level, ...]
    cohort: int
    head: int
    scoring: Moved
    up: Span
    down: Span
    change: int
    notes: tuple[str, ...]


def forecast(ahead: Outlook) -> Forecast:
    """What a run of this federation will send."""
    clients, levels = ahead.clients, sorted(set(ahead.clients.first.values()))
    fewest, most = (_Played(ahead, levels, most=most) for most in (False, True))
    head = sum(tensor.numel() for tensor in ahead.adapter.dense.values())
    scoring = Moved()
    if clients.policy.scores_clients:
        sent = read_outs(ahead.state(1, clients.start), clients.start, ahead.method)
        scoring = traffic.scoring(ahead.parts(1), sent.values())
    counts = Counter(clients.first.values())
    made: list[Level] = []
    for rank in levels:
        numbers = range(1, min(ahead.config.federation.rounds, 2) + 1)
        trained = [ahead.trained(number, rank, most=most) for number in numbers for most in (False, True)]
        low, high = fewest.by_level[rank], most.by_level[rank]
        up = Span(min(one.up for one in low), max(one.up for one in high))
        down = Span(min(one.down for one in low), max(one.down for one in high))
        made.append(Level(rank, counts[rank], Span(min(trained), max(trained)), up, down))
    cut = most.cut
    return Forecast(
        tuple(made),
        len(ahead.cohorts()[0]),
        head,
        scoring,
        Span(fewest.total.up + scoring.up, most.total.up + scoring.up),
        Span(None if cut else fewest.total.down + scoring.down, most.total.down + scoring.down),
        most.change,
        tuple(_notes(ahead, cut=cut, known=fewest.total == most.total)),
    )


class _Played:
    """The rounds of a run, one after another, where what is not known makes for the fewest or the most bytes.

    Args:
        ahead: the federation.
        levels: ranks of which every round's bytes are wanted.
        most: which of the two.

    Attributes:
        by_level: rank -> bytes of each round to and from one client.
        total: bytes of all rounds.
        change: the most bytes of a base change that a client is sent.
        cut: whether a base change that is sent was cut to its limit, from where on its rank is known from above alone.
    """

    def __init__(self, ahead: Outlook, levels: Sequence[int], *, most: bool) -> None:
        self.by_level: dict[int, list[Moved]] = {rank: [] for rank in levels}
        self.total, self.change, self.cut, self._grown_over = Moved(), 0, False, False
        self._ahead, self._most = ahead, most
        self._known: dict[tuple[Parts, int, tuple[int, ...]], Moved] = {}
        sent = traffic.sends_change(ahead.method)
        cohorts = ahead.cohorts()
        ranks = _assigned(ahead, cohorts, most=most)
        change: Adapter | None = None
        for number, names in enumerate(cohorts, 1):
            self.cut |= self._grown_over
            for rank in levels:
                self.by_level[rank].append(self._moved(number, rank, change))
            for rank, count in Counter(ranks[name] for name in names).items():
                one = self._moved(number, rank, change)
                self.total += Moved(one.down * count, one.up * count)
            if sent:
                change = self._grown(change, [ranks[name] for name in names])
            if ahead.clients.policy.prunes and not most:
                ranks |= {name: ahead.clients.policy.shrunk(ranks[name]) for name in names}

    def _moved(self, number: int, rank: int, change: Adapter | None) -> Moved:
        widths = tuple(factors.rank for factors in change.modules.values()) if change else ()
        key = self._ahead.parts(number), rank, widths
        if key not in self._known:
            sent = self._ahead.sent(number, rank, change)
            self._known[key] = self._ahead.moved(number, rank, sent, most=self._most)
            self.change = max(self.change, sent.base_change.nbytes if sent.base_change else 0)
            for factors, wide in zip(
                sent.base_change.modules.values() if sent.base_change else (), widths, strict=False
            ):
                self.cut |= wide < factors.rank == min(factors.d_in, factors.d_out)  # cut with what it is sent beside
        return self._known[key]

    def _grown(self, change: Adapter | None, clients: list[int]) -> Adapter:
        """The base change after a round."""
        modules: dict[str, Factors] = {}
        for name, own in self._ahead.adapter.modules.items():
            before = change.modules[name].rank if change else 0
            rank = self._ahead.method.change_rank(before, clients, own.rank)[self._most]
            limit = min(own.d_in, own.d_out, self._ahead.method.max_rank or own.d_in)
            self._grown_over |= rank > limit
            wide = min(rank, limit)
            modules[name] = Factors(torch.empty(wide, own.d_in, device=META), torch.empty(own.d_out, wide, device=META))
        return Adapter(modules)


def _assigned(ahead: Outlook, cohorts: Sequence[Sequence[str]], *, most: bool) -> dict[str, int]:
    """The ranks of the first round.

    Where a scoring round decides, the best scores go to those whose rank costs most, or least, over the run.
    """
    clients = ahead.clients
    if not clients.scored:
        return dict(clients.first)
    low, high = min(clients.first.values()), max(clients.first.values())
    later = 0
    cost = dict.fromkeys(clients.first, 0)
    wider = sum(own.d_in + own.d_out for own in ahead.adapter.modules.values()) * 4 * (high - low)
    stays = wider if traffic.sends_change(ahead.method) else 0
    known: dict[Parts, int] = {}
    for number in range(len(cohorts), 0, -1):
        parts = ahead.parts(number)
        if parts not in known:
            a, b = (ahead.moved(number, rank, ahead.sent(number, rank)) for rank in (low, high))
            known[parts] = b.up + b.down - a.up - a.down
        for name in cohorts[number - 1]:
            cost[name] += known[parts] + stays * later
        later += len(cohorts[number - 1])
    order = sorted(cost, key=lambda name: cost[name], reverse=most)
    return clients.policy.assign(clients.start, {name: float(place) for place, name in enumerate(order)})


def _notes(ahead: Outlook, *, cut: bool, known: bool) -> list[str]:
    """Why the totals are not known."""
    notes: list[str] = []
    if ahead.clients.scored and not known:
        notes.append("the scoring round decides which clients get which rank: the totals lie between these")
    if ahead.clients.policy.prunes and not known:
        notes.append("clients may give up rank indices in every round, or in none: the totals lie between these")
    if ahead.method.info.chooses_indices and not known:
        notes.append(
            "clients choose the rank indices that they send, of modules of several sizes: the totals lie between"
        )
    least, most = ahead.method.change_rank(1, [2, 2], 2)
    if least != most and not known and traffic.sends_change(ahead.method):
        notes.append("what was learned decides how much of each round the base change keeps")
    if cut:
        notes.append("the base change is cut to its largest rank, and is smaller where what was learned is: at most")
    if ahead.config.secure.enabled:
        notes.append(
            "bytes are those of plain rounds: under masks every client sends sums of the highest rank (docs/secure.md)"
        )
    return notes
