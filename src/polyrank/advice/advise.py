"""A recommendation in three sentences: the method, ranks and learning rate, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.advice.candidates import LIKELY, OPEN, SURE, by_rules, possible, refusal
from polyrank.advice.pilot import PILOT_ROUNDS, Candidate, Told, Trial, ahead, clearly, pilot
from polyrank.config import Config
from polyrank.config.variants import with_method, with_one_rank
from polyrank.core.errors import ConfigError
from polyrank.core.text import size
from polyrank.federation.planned import Planned, planned
from polyrank.federation.planning.forecast import Span, forecast
from polyrank.federation.planning.outlook import outlook
from polyrank.tasks import settled

LOWER = 1 / 3
"""Of the learning rate, that is tried beside it."""


@dataclass(frozen=True)
class Advice:
    """What to use, and why.

    Args:
        method: of aggregation.
        lr: the highest learning rate of a client's round.
        equal_rank: the rank that all clients should have; None to leave ranks as they are.
        sure: ``sure``, ``likely`` or ``open``.
        sentences: the recommendation for people, in three sentences.
        trials: the pilot; empty without one.
    """

    method: str
    lr: float
    equal_rank: int | None
    sure: str
    sentences: tuple[str, str, str]
    trials: tuple[Trial, ...] = ()


def advise(config: Config, *, with_pilot: bool = True, rounds: int = PILOT_ROUNDS, tell: Told = print) -> Advice:
    """What to use for a federation.

    Args:
        config: of it; `polyrank.load_config` reads one.
        with_pilot: whether some methods are tried for a few rounds on its clients, which takes minutes.
        rounds: of each of them.
        tell: is told what the pilot does.

    Raises:
        PolyRankError: something in the configuration does not fit, or with a pilot in the data or the model.
        ConfigError: a pilot is asked for where the server may not look at single clients.
    """
    config = settled(config)
    clients = planned(config)
    if not with_pilot:
        return _from_rules(config, clients)
    if reason := refusal(config, clients, "validated"):
        raise ConfigError(
            f"a pilot measures clients' models on the server's validation set, and these settings do not allow it: "
            f"{reason}; expected --no-pilot"
        )
    if rounds < 2:
        raise ConfigError(f"--rounds is {rounds}; expected 2 or more, since one says nothing of how it scatters")
    return _from_pilot(config, pilot(config, _candidates(config, clients), rounds, tell), clients)


def _candidates(config: Config, clients: Planned) -> list[Candidate]:
    levels = sorted(set(clients.first.values()))
    found = [Candidate(name) for name in possible(config, clients)]
    if len(levels) > 1:
        found.append(Candidate("fedavg", rank=levels[0]))
    else:  # with one rank nothing is missing, and these are the mean
        found = [one for one in found if one.method in ("validated", "fedavg")]
    return [*found, Candidate("validated", lr_share=LOWER)]


def _from_rules(config: Config, clients: Planned) -> Advice:
    chosen = by_rules(config, clients)
    levels = sorted(set(clients.first.values()))
    words = {SURE: "it is sure", LIKELY: "it is likely", OPEN: "it is open: try a pilot"}
    return Advice(
        chosen.method,
        config.training.lr,
        None,
        chosen.sure,
        (
            f"Take {chosen.method}: {chosen.why} ({words[chosen.sure]}).",
            f"Keep {_ranks(levels)} and the learning rate of {config.training.lr:g}; a pilot alone says more of them.",
            _cost(with_method(config, chosen.method)),
        ),
    )


def _from_pilot(config: Config, trials: Sequence[Trial], clients: Planned) -> Advice:
    levels = sorted(set(clients.first.values()))
    plain = [trial for trial in trials if trial.candidate.lr_share == 1 and trial.candidate.rank is None]
    order = sorted(plain, key=lambda trial: trial.mean)
    best, second = order[0], order[1]
    gap, rounds = ahead(best, second)
    sure = SURE if clearly(best, second) else OPEN
    told = ", ".join(f"{trial.mean:.3f} with {trial.candidate.method}" for trial in order)
    first = (
        f"Take {best.candidate.method}: over {len(best.losses)} rounds its validation loss was {told} "
        f"(ahead of the next by {gap:.3f} nats and in {rounds} of {len(best.losses)} rounds: "
        f"{'more than the rounds scatter' if sure == SURE else 'no more than the rounds scatter, so it is open'})."
    )
    low = next((trial for trial in trials if trial.candidate.rank is not None), None)
    equal = None
    said = f"Keep {_ranks(levels)}"
    if low is not None and clearly(low, best):
        equal = low.candidate.rank
        said = f"Give everybody rank {equal}, which fedavg took to {low.mean:.3f}"
    elif low is not None:
        said += f", with which it was {'ahead of' if clearly(best, low) else 'not clearly ahead of'} rank "
        said += f"{low.candidate.rank} for all ({low.mean:.3f})"
    slow = next(trial for trial in trials if trial.candidate.lr_share != 1)
    beside = next(trial for trial in plain if trial.candidate.method == slow.candidate.method)
    rate = config.training.lr
    if clearly(slow, beside):
        rate *= slow.candidate.lr_share
        said += f", and lower the learning rate to {rate:.2g}: a third of it came to {slow.mean:.3f}"
    else:
        said += f", and the learning rate of {rate:g}, of which a third came to {slow.mean:.3f}"
    method = "fedavg" if equal is not None else best.candidate.method
    taken = with_method(config, method)
    cost = _cost(taken if equal is None else with_one_rank(taken, equal))
    return Advice(method, rate, equal, sure, (first, f"{said}.", cost), tuple(trials))


def _ranks(levels: Sequence[int]) -> str:
    if len(levels) == 1:
        return f"rank {levels[0]} for all"
    return f"the ranks {', '.join(map(str, levels[:-1]))} and {levels[-1]}"


def _cost(config: Config) -> str:
    found = forecast(outlook(config))
    rounds = config.federation.rounds
    word = "round" if rounds == 1 else "rounds"
    return f"A run of {rounds} {word} then sends {_bytes(found.up)} up and {_bytes(found.down)} down."


def _bytes(span: Span) -> str:
    return size(span.most) if span.exact else f"at most {size(span.most)}"
