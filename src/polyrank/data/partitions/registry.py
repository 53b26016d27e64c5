"""All partitions by name. A new one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.core.errors import ConfigError, DataError
from polyrank.core.registry import Registry
from polyrank.core.seeds import numpy_generator
from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, Partitioner
from polyrank.data.partitions.by_column import ByColumn
from polyrank.data.partitions.by_label import ByLabel
from polyrank.data.partitions.dirichlet import Dirichlet
from polyrank.data.partitions.iid import Iid
from polyrank.data.partitions.quality_groups import QualityGroups
from polyrank.data.partitions.size_groups import SizeGroups

PARTITIONS: Registry[Partitioner] = Registry(
    "partition",
    {
        "iid": Iid,
        "dirichlet": Dirichlet,
        "by-label": ByLabel,
        "by-column": ByColumn,
        "quality-groups": QualityGroups,
        "size-groups": SizeGroups,
    },
    group="polyrank.partitions",
)


def partition(
    dataset: TextDataset,
    name: str,
    clients: int | None,
    *,
    seed: int,
    min_examples: int = 1,
    options: Mapping[str, object] | None = None,
) -> Partition:
    """Divide a data set over clients with the partition of this name.

    `options` are the fields of the partition's class (`Registry.options`), such as ``{"alpha": 0.1}``; `clients` may be
    None for by-column. The same arguments give the same partition. Every client has at least `min_examples`.

    Raises:
        ConfigError: an unknown name or option, an option out of range, or a number of clients that cannot be.
        DataError: more clients than examples, a client below `min_examples`, or data that do not allow this partition.
    """
    partitioner = PARTITIONS.build(name, options)
    if min_examples < 1:
        raise ConfigError(
            f"data.min_examples is {min_examples}; expected 1 or more, since a client without data cannot train"
        )
    if len(dataset) == 0:
        raise DataError("the training data have no examples; expected at least one for each client")
    result = partitioner(dataset, clients, numpy_generator(seed, "partition", name))
    small = {client: len(at) for client, at in result.examples.items() if len(at) < min_examples}
    if small:
        smallest = min(small, key=lambda client: small[client])
        raise DataError(
            f"partition {name}: {len(small)} of {len(result.examples)} clients have fewer than {min_examples} of the "
            f"{len(dataset)} training examples (least: {smallest} with {small[smallest]}); use fewer clients, more "
            "data or a lower data.min_examples"
        )
    return result
