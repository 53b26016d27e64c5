"""Adapters as plain data that can be sent: a description for JSON, and named tensors as safetensors; never a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError

MAGIC = b"PRP1"

_PREFIX = struct.Struct(">4sI")


def describe(adapter: Adapter) -> dict[str, Any]:
    """What the tensors do not say: the modules with their scales, and which tensors are whole."""
    return {"scales": {name: f.scale for name, f in adapter.modules.items()}, "dense": list(adapter.dense)}


def tensors_of(adapter: Adapter, prefix: str) -> dict[str, Tensor]:
    """Its tensors, by the names of `Adapter.tensors` under ``<prefix>/``."""
    return {f"{prefix}/{name}": tensor for name, tensor in adapter.tensors()}


def adapter_of(about: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Adapter:
    """The adapter again.

    Args:
        about: of `describe`.
        tensors: of `tensors_of`, others beside them.
        prefix: as there.

    Raises:
        AdapterError: a tensor is missing, one is there that was not described, or factors do not fit each other.
    """
    scales, dense = about["scales"], about["dense"]
    expected = {f"{prefix}/{name}.{part}" for name in scales for part in "ab"} | {f"{prefix}/{name}" for name in dense}
    found = {name for name in tensors if name.startswith(f"{prefix}/")}
    if expected != found:
        missing, unknown = sorted(expected - found), sorted(found - expected)
        raise AdapterError(
            f"the tensors are not those of the description; missing: {missing[:3] or 'none'}, "
            f"unknown: {unknown[:3] or 'none'}"
        )
    modules = {
        name: Factors(tensors[f"{prefix}/{name}.a"], tensors[f"{prefix}/{name}.b"], float(scale))
        for name, scale in scales.items()
    }
    return Adapter(modules, {name: tensors[f"{prefix}/{name}"] for name in dense})


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors; they may share memory, lie on a device, or be views."""
    # copies: safetensors refuses tensors that share memory
    data: bytes = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    return data


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """Named tensors again, in memory of their own.

    Raises:
        AdapterError: it is no safetensors, or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterError(f"{len(data)} bytes that should be safetensors cannot be read: {error}") from None
    return tensors


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A header and tensors as one piece: ``PRP1``, the header's length in 4 bytes, the header, safetensors."""
    text = json.dumps(header).encode()
    return _PREFIX.pack(MAGIC, len(text)) + text + to_bytes(tensors)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` made one piece of.

    Raises:
        AdapterError: it is no such piece, or a damaged one.
    """
    magic, size = _PREFIX.unpack_from(data) if len(data) >= _PREFIX.size else (b"", 0)
    if magic != MAGIC or _PREFIX.size + size > len(data):
        raise AdapterError(f"{len(data)} bytes that begin with {data[:4]!r} are no packed tensors, or not all of them")
    try:
        header = json.loads(data[_PREFIX.size : _PREFIX.size + size])
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"the header of packed tensors is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise AdapterError(f"the header of packed tensors is a {type(header).__name__}; expected an object")
    return header, from_bytes(data[_PREFIX.size + size :])
