"""What a configuration says of its clients before anything is trained."""

from __future__ import annotations

import numpy as np

from polyrank import ranks
from polyrank.config import Config
from polyrank.data import Partition, TextDataset, client_names
from polyrank.federation.population import DEFAULT_CLIENTS, first_ranks, held_out, load_data, share_out


def planned_ranks(config: Config, train: TextDataset | None = None) -> list[int]:
    """The rank of every client before the first round, scoring included, ascending; no model is loaded.

    The data are read only where they alone say how many clients there are, or whom ``ranks.by_name`` means. A policy
    that draws, or that scores, gives these ranks to one client or another.

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
        everything = load_data(config).train if train is None else train
        partition = share_out(held_out(everything, config, policy)[0], config)
    else:
        partition = Partition(dict.fromkeys(clients, np.empty(0, np.int64)))
    return sorted(first_ranks(config, policy, partition).values())


def _known_clients(config: Config) -> list[str] | None:
    """The clients' names, where the configuration says them; None where they, and maybe how many, are in the data."""
    if config.data.partition != "by-column":
        return client_names(config.federation.clients or DEFAULT_CLIENTS)
    count = config.federation.clients or sum(config.ranks.counts or ())
    return client_names(count) if count and not config.ranks.by_name else None  # without names any will do
