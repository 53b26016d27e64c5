"""Adapters as Flower's records, and back with every check before any arithmetic."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from torch import Tensor

from polyrank.core.errors import FlowerError

WIRE: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What tensors may travel in."""
LARGEST = 1e6
"""Magnitude above which a value cannot come from training; an assumption of ours."""
HEADER = 1024
"""Bytes that the header before an array's values may have; numpy's own has 128."""


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
        FlowerError: names, sizes, dtypes or shapes are others than expected, or values are not finite or absurd. All
            but the values is compared before anything is allocated.
    """
    if expected.keys() != record.keys():
        missing, unknown = sorted(expected.keys() - record.keys()), sorted(record.keys() - expected.keys())
        lacks, more = (shown(names[:3], 300) if names else "none" for names in (missing, unknown))
        raise FlowerError(f"missing tensors: {lacks}, unknown ones: {more}")
    return {name: from_array(name, record[name], shape, wire) for name, shape in expected.items()}


def from_array(name: str, array: Array, shape: tuple[int, ...], wire: str) -> Tensor:
    """One tensor in float32.

    Raises:
        FlowerError: as `from_record`.
    """
    kind = np.dtype(np.uint16 if wire == "bfloat16" else wire)
    tensor = torch.from_numpy(_values(name, array.data, shape, kind))
    tensor = (tensor.view(torch.bfloat16) if wire == "bfloat16" else tensor).float()
    if not bool(torch.isfinite(tensor).all()):
        raise FlowerError(f"NaN or infinite values in {name}")
    if tensor.numel() and float(tensor.abs().max()) > LARGEST:
        raise FlowerError(f"{name} holds {float(tensor.abs().max()):.3g}, above {LARGEST:.0e}")
    return tensor


def numbers(name: str, array: Array, count: int, kind: np.dtype) -> np.ndarray:
    """Whole numbers of a kind, in memory of their own.

    Raises:
        FlowerError: they are others, or not so many; that is compared before anything is allocated.
    """
    return _values(name, array.data, (count,), kind)


def _values(name: str, data: bytes, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """An array in memory of its own, from numpy's file format; what the record declares beside it is not looked at."""
    size = math.prod(shape) * kind.itemsize
    if len(data) > size + HEADER:
        raise FlowerError(f"{name} has {len(data)} bytes, expected at most {size + HEADER} for shape {shape}")
    found, by_columns, dtype, begin = _header(name, data[:HEADER])
    if found != shape or dtype != kind:
        raise FlowerError(f"{name} is {shown(dtype)} of shape {shown(found)}, expected {kind} of shape {shape}")
    if len(data) - begin != size:
        raise FlowerError(f"{name} has {len(data) - begin} bytes of values, expected {size} for shape {shape}")
    values = np.frombuffer(data, kind, math.prod(shape), begin).reshape(shape, order="F" if by_columns else "C")
    return values.copy(order="C")


def _header(name: str, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, dtype, and where the values begin, as the data announce them."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    file = io.BytesIO(data)
    try:
        shape, by_columns, dtype = readers[npy.read_magic(file)](file, max_header_size=HEADER)
    except Exception as error:  # numpy reads the header as a Python literal, which fails in many ways
        raise FlowerError(f"{name} is no numpy array: {type(error).__name__}: {str(error)[:100]}") from None
    return shape, by_columns, dtype, file.tell()


def nbytes(tensors: Iterable[Tensor], wire: str) -> int:
    """Bytes of the values on the way, without numpy's headers."""
    return sum(tensor.numel() for tensor in tensors) * WIRE[wire].itemsize


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shown(value: object, most: int = 60) -> str:
    """What somebody sent, for a message: short, and on one line."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."
