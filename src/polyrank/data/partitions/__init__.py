"""Who holds what: ways to divide a data set over clients."""

from polyrank.data.partitions.base import Partition, Partitioner, client_names
from polyrank.data.partitions.registry import PARTITIONS, partition

__all__ = ["PARTITIONS", "Partition", "Partitioner", "client_names", "partition"]
