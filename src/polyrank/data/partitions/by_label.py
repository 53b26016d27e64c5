"""Clients that know a few labels only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, named, positive, required


@dataclass(frozen=True)
class ByLabel:
    """Every client holds exactly `labels_per_client` labels; every label is shared equally by the clients that hold it.

    Labels are held by equally many clients, up to one; which clients hold which is drawn. A client's size follows from
    the sizes of its labels. The split of McMahan et al. 2017 (https://arxiv.org/abs/1602.05629) with whole labels in
    place of shards, so that the number of labels per client is exact. All examples are handed out.

    Raises:
        ConfigError: more labels per client than there are.
        DataError: the clients cannot hold all labels, or a label has fewer examples than clients that hold it.
    """

    labels_per_client: int = 1

    def __post_init__(self) -> None:
        positive("labels_per_client", self.labels_per_client, whole=True)

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition."""
        labels = dataset.kinds("partition by-label")
        count = required(clients, len(dataset))
        present = np.flatnonzero(dataset.label_counts())
        self._check(count, len(present))
        parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        for label, holders in zip(present, self._holders(count, len(present), generator), strict=True):
            examples = generator.permutation(np.flatnonzero(labels == label))
            if len(examples) < len(holders):
                raise DataError(
                    f"label {dataset.label_names[label]!r} has {len(examples)} training examples, but {len(holders)} "
                    "clients are to hold it; expected one for each: lower federation.clients or data.labels_per_client"
                )
            for client, part in zip(holders, np.array_split(examples, len(holders)), strict=True):
                parts[client].append(part)
        return named([np.concatenate(part) for part in parts])

    def _check(self, clients: int, labels: int) -> None:
        if self.labels_per_client > labels:
            raise ConfigError(
                f"data.labels_per_client is {self.labels_per_client}, but the training data have {labels} labels; "
                "lower it"
            )
        if self.labels_per_client * clients < labels:
            raise DataError(
                f"{clients} clients with {self.labels_per_client} label(s) each cannot hold all {labels} labels; raise "
                "federation.clients or data.labels_per_client"
            )

    def _holders(self, clients: int, labels: int, generator: np.random.Generator) -> list[list[int]]:
        """The clients of every label; each client takes the labels that fewest others hold, ties drawn."""
        holders: list[list[int]] = [[] for _ in range(labels)]
        for client in generator.permutation(clients):
            held = np.array([len(holder) for holder in holders])
            order = np.lexsort((generator.random(labels), held))
            for label in order[: self.labels_per_client]:
                holders[label].append(int(client))
        return holders
