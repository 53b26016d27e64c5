"""Who holds what: ways to divide a data set over clients."""

from polyrank.data.partitions.base import Partition, Partitioner, client_names
from polyrank.data.partitions.registry import PARTITIONS, option_names, partition

__all__ = ["PARTITIONS", "Partition", "Partitioner", "client_names", "option_names", "partition"]
