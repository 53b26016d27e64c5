"""What a partition is, and what a way to make one must look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from polyrank.core.errors import ConfigError, DataError
from polyrank.core.shares import part_of
from polyrank.data.dataset import TextDataset


@dataclass(frozen=True, eq=False)
class Partition:
    """Client name -> sorted indices of its examples (int64), in the order of the client names.

    No example belongs to two clients; some may belong to none. `groups` says, where the partition has kinds of clients,
    which kind each one is.
    """

    examples: Mapping[str, np.ndarray]
    groups: Mapping[str, str] = field(default_factory=dict)

    def label_counts(self, labels: np.ndarray, n_labels: int) -> dict[str, np.ndarray]:
        """Number of examples of every label for each client, int64, shape (n_labels,)."""
        return {client: np.bincount(labels[at], minlength=n_labels) for client, at in self.examples.items()}


class Partitioner(Protocol):
    """Divides a data set over clients; its options are its fields, its randomness comes from the generator alone."""

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition; `clients` is None where the data should say how many there are."""
        ...


def client_names(count: int) -> list[str]:
    """Names for so many clients without names of their own: as wide as the last one needs, and at least two digits.

    >>> client_names(2)
    ['client-00', 'client-01']
    """
    width = max(len(str(count - 1)), 2)
    return [f"client-{i:0{width}d}" for i in range(count)]


def named(parts: Sequence[np.ndarray], groups: Sequence[str] = ()) -> Partition:
    """Parts as clients, by the names of `client_names`.

    >>> list(named([np.array([1]), np.array([0, 2])], groups=["a", "b"]).groups.items())
    [('client-00', 'a'), ('client-01', 'b')]
    """
    names = client_names(len(parts))
    examples = {name: np.sort(part).astype(np.int64) for name, part in zip(names, parts, strict=True)}
    return Partition(examples, dict(zip(names, groups, strict=True)) if groups else {})


def required(clients: int | None, n_examples: int) -> int:
    """The number of clients, where a partition needs to be told.

    Raises:
        ConfigError: it was not given or is below 1.
        DataError: there are more clients than examples.
    """
    if clients is None or clients < 1:
        raise ConfigError(f"federation.clients is {clients}; this partition needs a number of clients, 1 or more")
    if clients > n_examples:
        raise DataError(
            f"{clients} clients, but only {n_examples} training examples; expected at least one for each client: "
            "lower federation.clients or add data"
        )
    return clients


def even_sizes(n_examples: int, clients: int, size: int | None, generator: np.random.Generator) -> np.ndarray:
    """Examples per client: `size` each, or without it all examples, whose remainder goes to clients drawn at random.

    Raises:
        DataError: `size` for every client is more than there is.
    """
    if size is None:
        extra = generator.permutation(clients) < n_examples % clients
        return np.full(clients, n_examples // clients) + extra
    if size * clients > n_examples:
        raise DataError(
            f"{clients} clients with {size} examples each need {size * clients} training examples, found {n_examples}: "
            "lower the size or the number of clients, or leave the size out to hand out everything"
        )
    return np.full(clients, size)


def positive(name: str, value: float | None, *, whole: bool = False) -> None:
    """Refuse an option that is not a (whole) number above zero; None, an option left out, passes.

    Raises:
        ConfigError: it is not.
    """
    if value is None:
        return
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < np.inf:
        raise ConfigError(f"partition option {name} is {value!r}; expected a {'whole ' * whole}number above 0")


def share(name: str, value: float) -> None:
    """Refuse an option that is no share.

    Raises:
        ConfigError: it is not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"partition option {name} is {value}; expected a share from 0 to 1")


def some_of(clients: int, part: float) -> int:
    """How many of the clients a share is: rounded half up, and at least one if it is above zero."""
    return max(part_of(clients, part), 1) if part > 0 else 0
