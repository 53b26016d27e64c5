"""Data sets in, partitions out: what is learned from (`load`) and who holds what (`partition`).

`datasets`, pyarrow and the embedded data are imported where they are used, so importing this package is cheap.
"""

from polyrank.data.dataset import Split, TextDataset
from polyrank.data.partitions import PARTITIONS, Partition, client_names, partition
from polyrank.data.sampling import hold_out
from polyrank.data.sources import load

__all__ = [
    "PARTITIONS",
    "Partition",
    "Split",
    "TextDataset",
    "client_names",
    "hold_out",
    "load",
    "partition",
]
