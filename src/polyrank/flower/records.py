"""Adapters as Flower's records, and back with every check before any arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from polyrank.errors import FlowerError

WIRE: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What tensors may travel in."""
LARGEST = 1e6
"""Magnitude above which a value cannot come from training; an assumption of ours."""
SLACK = 1024
"""Bytes that an array's data may have beyond its values: numpy's header."""


def to_record(tensors: Mapping[str, Tensor], wire: str) -> ArrayRecord:
    """Named tensors in the wire's dtype; bfloat16, which numpy lacks, as the same bits in ``uint16``."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        cast = tensor.detach().to("cpu", WIRE[wire]).contiguous()
        record[name] = Array((cast.view(torch.uint16) if wire == "bfloat16" else cast).numpy())
    return record


def from_record(record: ArrayRecord, expected: Mapping[str, tuple[int, ...]], wire: str) -> dict[str, Tensor]:
    """Named tensors in float32.

    Args:
        record: what came.
        expected: name -> shape of every tensor that must be there.
        wire: the dtype that it was to come in.

    Raises:
        FlowerError: names, sizes, dtypes or shapes are others than expected, or values are not finite or absurd.
            Sizes are compared before anything is decoded.
    """
    if expected.keys() != record.keys():
        missing, unknown = sorted(expected.keys() - record.keys()), sorted(record.keys() - expected.keys())
        raise FlowerError(f"missing tensors: {missing[:3] or 'none'}, unknown ones: {unknown[:3] or 'none'}")
    kind = np.dtype(np.uint16 if wire == "bfloat16" else wire)
    tensors: dict[str, Tensor] = {}
    for name, shape in expected.items():
        array = record[name]
        most = int(np.prod(shape)) * kind.itemsize + SLACK
        if len(array.data) > most:
            raise FlowerError(f"{name} has {len(array.data)} bytes, expected at most {most} for shape {shape}")
        try:
            values = array.numpy()
        except (ValueError, TypeError, EOFError, OSError) as error:
            raise FlowerError(f"{name} is no numpy array: {error}") from None
        if values.shape != shape or values.dtype != kind:  # of the data, not what is declared beside it
            raise FlowerError(f"{name} is {values.dtype} of shape {values.shape}, expected {kind} of shape {shape}")
        tensor = torch.from_numpy(values.copy())
        tensor = (tensor.view(torch.bfloat16) if wire == "bfloat16" else tensor).float()
        if not bool(torch.isfinite(tensor).all()):
            raise FlowerError(f"NaN or infinite values in {name}")
        if tensor.numel() and float(tensor.abs().max()) > LARGEST:
            raise FlowerError(f"{name} holds {float(tensor.abs().max()):.3g}, above {LARGEST:.0e}")
        tensors[name] = tensor
    return tensors


def nbytes(tensors: Iterable[Tensor], wire: str) -> int:
    """Bytes of the values on the way, without numpy's headers."""
    return sum(tensor.numel() for tensor in tensors) * WIRE[wire].itemsize


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
