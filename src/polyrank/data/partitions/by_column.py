"""Natural clients: the data say whose an example is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.core.errors import ConfigError, DataError, did_you_mean
from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition


@dataclass(frozen=True)
class ByColumn:
    """One client for every value of `column`, named after the value; the number of clients follows from the data.

    Nothing is drawn. The column must be among those that were loaded (`extra_columns` of `polyrank.data.load`).

    Raises:
        ConfigError: no column was named, or the number of clients was given and is another.
        DataError: the data set was loaded without this column.
    """

    column: str | None = None

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:  # noqa: ARG002  # nothing to draw
        """The partition."""
        if not self.column:
            raise ConfigError("the partition by-column needs data.column, the column that names the client")
        if self.column not in dataset.columns:
            loaded = did_you_mean(self.column, dataset.columns) if dataset.columns else "no extra column was loaded"
            raise DataError(f"the training data were loaded without the column {self.column!r}; {loaded}")
        names, owner = np.unique(np.array(dataset.columns[self.column], dtype=object), return_inverse=True)
        if clients is not None and clients != len(names):
            raise ConfigError(
                f"federation.clients is {clients}, but the column {self.column!r} has {len(names)} different values; "
                f"leave federation.clients out or set it to {len(names)}"
            )
        return Partition({str(name): np.flatnonzero(owner == i) for i, name in enumerate(names)})
