"""What a configuration says of its clients before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from polyrank import privacy, ranks, tasks
from polyrank.aggregation import Method
from polyrank.config import Config
from polyrank.core.errors import ConfigError, DataError
from polyrank.data import Partition, TextDataset, client_names
from polyrank.federation.population import (
    DEFAULT_CLIENTS,
    first_ranks,
    global_rank,
    held_out,
    load_data,
    share_out,
)
from polyrank.federation.round import check_ranks, cohort_size
from polyrank.ranks import RankPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """The clients of a configuration before the first round.

    Names that are in the data alone are made up, in the same order, where the data need not be read for anything else:
    cohorts and ranks go by the order of the names.

    Args:
        policy: of their ranks.
        start: client -> its rank before anything is trained.
        first: client -> its rank in the first round; a policy that scores gives these to one client or another.
    """

    policy: RankPolicy
    start: Mapping[str, int]
    first: Mapping[str, int]

    @property
    def scored(self) -> bool:
        """Whether a scoring round decides whose rank is which."""
        return self.policy.scores and len(set(self.first.values())) > 1


def planned(config: Config, train: TextDataset | None = None) -> Planned:
    """The clients of a configuration, and their ranks; no model is loaded.

    The data are read only where they alone say how many clients there are, or whom ``ranks.by_name`` means.

    Args:
        config: of the federation.
        train: its training data, where they have been read.

    Raises:
        ConfigError: the ranks do not fit the number of clients, or ``by_name`` names nobody.
        DataError: the data are needed, and do not fit.
    """
    policy = ranks.policy(config.ranks)
    clients = _known_clients(config)
    if clients is None or not config.ranks.by_name.keys() <= set(clients):
        with _without_data("set federation.clients, and no ranks.by_name"):
            everything = load_data(config).train if train is None else train
        partition = share_out(held_out(everything, config, policy)[0], config)
    else:
        partition = Partition(dict.fromkeys(clients, np.empty(0, np.int64)))
    start = policy.start(sorted(partition.examples), partition.groups, config.federation.seed)
    return Planned(policy, start, first_ranks(config, policy, partition))


def planned_ranks(config: Config, train: TextDataset | None = None) -> list[int]:
    """The ranks of `planned` in the first round, ascending."""
    return sorted(planned(config, train).first.values())


def planned_outputs(config: Config) -> tuple[str, ...]:
    """Names of what the model's head gives; the data are read where the configuration does not say them.

    Args:
        config: with its task named.

    Raises:
        DataError: the data are needed, and cannot be read.
    """
    task = tasks.task(config)
    if task.writes:
        return ()
    if task.labelled and config.data.labels is not None:
        return task.outputs(TextDataset((), np.empty(0, np.int64), tuple(config.data.labels)))
    with _without_data('name the classes: data.labels = ["..."]' if task.labelled else ""):
        return task.outputs(load_data(config).train)


def planned_task(config: Config) -> Config:
    """The configuration with its task named; columns of the data are asked for where it does not say it.

    Raises:
        DataError: the data are needed, and cannot be read.
    """
    with _without_data('name the task: task.name = "causal-lm" or "classification"'):
        return tasks.settled(config)


@contextmanager
def _without_data(do: str) -> Iterator[None]:
    """Say what makes up for data that are not there."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}" + (f"; to plan without the data, {do}" if do else "")) from None


def check_method(config: Config, method: Method, policy: RankPolicy, first: Mapping[str, int]) -> None:
    """Refuse what the method cannot aggregate, and what cannot be kept private, before any work is done.

    Raises:
        ConfigError: as `polyrank.privacy.check` and `polyrank.federation.round.check_ranks`, or a method for equal
            ranks has clients that shrink, or one with others than the first rank indices clients that are pruned or
            scored; or a round has too few clients for a robust rule. Rank indices that too few
            own are a warning.
    """
    privacy.check(config, method)
    check_ranks(method, first, global_rank(config))
    if method.info.equal_ranks and policy.shrunk(global_rank(config)) < global_rank(config):
        raise ConfigError(
            f"aggregation.method {method.info.name} needs clients of equal ranks, but with ranks.policy "
            f"{config.ranks.policy} they may shrink; give ranks.levels one value, or take a method for different ranks "
            "(see: polyrank methods)"
        )
    if method.info.judges and config.federation.head == "local":
        raise ConfigError(
            f"aggregation.method {method.info.name} measures models on the server's validation set, and with "
            "federation.head local the server has no head that was trained; expected federation.head mean, or another "
            "method"
        )
    if not method.info.first_indices and policy.prunes:
        raise ConfigError(
            f"ranks.policy {config.ranks.policy} prunes a client's last rank indices, and with aggregation.method "
            f"{method.info.name} it has others in every round; expected fixed or random, or another method"
        )
    if method.info.chooses_indices and policy.scores:
        raise ConfigError(
            f"ranks.policy {config.ranks.policy} scores what a client trained at its rank, and with aggregation.method "
            f"{method.info.name} it is sent all rank indices; expected fixed or random, or another method"
        )
    _check_robust(config, method, first)


def check_patience(config: Config) -> None:
    """Refuse a patience that no run of this length can lose.

    Raises:
        ConfigError: the evaluations before the last round are too few.
    """
    patience, every, rounds = config.evaluation.patience, config.evaluation.every, config.federation.rounds
    if patience is not None and (soonest := every * (patience + 1)) >= rounds:
        raise ConfigError(
            f"evaluation.patience {patience}: with evaluation.every {every} a run ends early after round {soonest} at "
            f"the soonest, and this one has {rounds} rounds; expected less patience, evaluations more often, more "
            "rounds, or no patience"
        )


def _check_robust(config: Config, method: Method, first: Mapping[str, int]) -> None:
    rule, asked = config.aggregation.robust, cohort_size(len(first), config.federation.participation)
    needs = method.needs(asked)
    if asked < needs.clients:
        raise ConfigError(
            f"aggregation.robust {rule} needs {needs.clients} clients in a round, and {asked} take part: every value "
            "would stay; raise federation.participation or federation.clients, or lower robust_options.hostile"
        )
    owners = {rank: sum(own >= rank for own in first.values()) * asked // len(first) for rank in first.values()}
    if rare := [rank for rank, count in sorted(owners.items()) if count < needs.owners]:
        learned = max((rank for rank in owners if rank < rare[0]), default=0)
        log.warning(
            "aggregation.robust %s: about %d clients of a round own rank indices from %d on, and it needs %d of %d; "
            "they will mostly keep their values; give ranks above %d to more clients, or take krum or norm",
            *(rule, owners[rare[0]], learned, needs.owners, asked, learned),
        )


def _known_clients(config: Config) -> list[str] | None:
    """The clients' names, where the configuration says them; None where they, and maybe how many, are in the data."""
    if config.data.partition != "by-column":
        return client_names(config.federation.clients or DEFAULT_CLIENTS)
    count = config.federation.clients or sum(config.ranks.counts or ())
    return client_names(count) if count and not config.ranks.by_name else None  # without names any will do
