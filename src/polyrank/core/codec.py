"""Values with tensors as plain data: a header for JSON, checked when it is read, and named tensors; never a pickle.

One codec for all that leaves a process or a run: work and its outcomes, the sums of a tree, checkpoints. A value is a
frozen dataclass whose annotations say what a header has to look like, so a new field of it is known here too. Carriers
differ: `pack` makes one piece, a site's socket has frames, Flower has records, a checkpoint has files.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, CodecError
from polyrank.core.strict import Kind, checked

MAGIC = b"PRP2"
SHARED = "="
"""Key of a packed header: name -> the name under which the same tensor is written."""

_PREFIX = struct.Struct(">4sI")

T = TypeVar("T")
Take: TypeAlias = Callable[[str, tuple[int, ...]], Tensor]
"""The tensor of a name, which must have this shape, from whatever carried it; raises if there is none."""


def encode(value: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A frozen dataclass as a header and its tensors.

    A tensor is named by the way to it, such as ``adapter/<module>.a`` or ``personal/<client>/<name>``. In the header
    stands its shape, and of an adapter the shapes and scales of its modules.
    """
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = _encoded(value, (), tensors)
    return header, tensors


def decode(kind: type[T], header: object, tensors: Mapping[str, Tensor]) -> T:
    """The value that `encode` made a header and tensors of.

    Args:
        kind: of the value.
        header: as it came.
        tensors: as they came.

    Raises:
        CodecError: a field is missing, unknown or of another type, or the tensors are not those of the header.
    """
    left = dict(tensors)

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in left:
            raise CodecError(f"the tensors are not those of the header: {name[:200]} is missing, or there twice")
        if left[name].shape != shape:
            raise CodecError(f"{name} has shape {tuple(left[name].shape)}, and the header says {shape}")
        return left.pop(name)

    value = read(kind, header, take)
    if left:
        raise CodecError(f"the tensors are not those of the header: {', '.join(sorted(left)[:3])[:200]} is unknown")
    return value


def read(kind: type[T], header: object, take: Take) -> T:
    """The value of a header, with each tensor from a function that knows what carries them.

    Raises:
        CodecError: a field is missing, unknown or of another type.
    """
    value: T = _decoded(kind, header, (), take)
    return value


def dumps(value: object) -> bytes:
    """A frozen dataclass as one piece, see `encode` and `pack`."""
    return pack(*encode(value))


def loads(kind: type[T], data: bytes) -> T:
    """The value that `dumps` made one piece of.

    Raises:
        CodecError: it is no such piece, or the value is not of this kind.
    """
    return decode(kind, *unpack(data))


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors; they may share memory, lie on a device, or be views."""
    # copies: safetensors refuses tensors that share memory
    data: bytes = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    return data


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """Named tensors again, in memory of their own.

    Raises:
        CodecError: it is no safetensors, or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CodecError(f"{len(data)} bytes that should be safetensors cannot be read: {error}") from None
    return tensors


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor], elsewhere: Mapping[int, str] | None = None) -> bytes:
    """A header and tensors as one piece: ``PRP2``, the header's length in 4 bytes, the header, safetensors.

    What is there under several names, such as a base change that many clients have, is written once.

    Args:
        header: values for JSON.
        tensors: by name.
        elsewhere: ``id`` of a tensor that the reader is given beside this -> its name there; it is not written.
    """
    first = dict(elsewhere or {})
    same = {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
    shared = {name: other for name, other in same.items() if name != other}
    text = json.dumps({**header, SHARED: shared} if shared else header).encode()
    own = {name: tensor for name, tensor in tensors.items() if same[name] == name}
    return _PREFIX.pack(MAGIC, len(text)) + text + to_bytes(own)


def unpack(data: bytes, elsewhere: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` made one piece of.

    Args:
        data: it.
        elsewhere: tensors that came beside it, by the names that they have there.

    Raises:
        CodecError: it is no such piece, or a damaged one.
    """
    magic, size = _PREFIX.unpack_from(data) if len(data) >= _PREFIX.size else (b"", 0)
    if magic != MAGIC or _PREFIX.size + size > len(data):
        raise CodecError(f"{len(data)} bytes that begin with {data[:4]!r} are no packed tensors, or not all of them")
    try:
        header = json.loads(data[_PREFIX.size : _PREFIX.size + size])
    except (ValueError, RecursionError) as error:
        raise CodecError(f"the header of packed tensors is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise CodecError(f"the header of packed tensors is a {type(header).__name__}; expected an object")
    tensors = from_bytes(data[_PREFIX.size + size :])
    known = {**(elsewhere or {}), **tensors}
    shared = checked(dict[str, str], header.pop(SHARED, {}), "names of the same tensor")
    if unknown := [name for name, other in shared.items() if name in tensors or other not in known]:
        raise CodecError(f"{unknown[0][:200]} is said to be another tensor, and is not: packed tensors are damaged")
    return header, tensors | {name: known[other] for name, other in shared.items()}


# One value -----------------------------------------------------------------------------------------------------------

_Size = Annotated[int, Field(ge=0, lt=2**40)]
_Way: TypeAlias = tuple[str, ...]


class _Layout(BaseModel):
    """An adapter's ``d_out``, rank, ``d_in`` and scale by module, and the shapes of its dense tensors."""

    model_config = ConfigDict(extra="forbid")

    modules: dict[str, tuple[_Size, _Size, _Size, float]]
    dense: dict[str, tuple[_Size, ...]]


def _encoded(value: Any, way: _Way, tensors: dict[str, Tensor]) -> Any:  # Any: a value in, JSON out
    if isinstance(value, Adapter):
        tensors.update({"/".join((*way, name)): tensor for name, tensor in value.tensors()})
        modules = {name: [f.d_out, f.rank, f.d_in, f.scale] for name, f in value.modules.items()}
        return {"modules": modules, "dense": {name: list(tensor.shape) for name, tensor in value.dense.items()}}
    if isinstance(value, Tensor):
        tensors["/".join(way)] = value
        return list(value.shape)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _encoded(getattr(value, field.name), (*way, field.name), tensors) for field in fields}
    if isinstance(value, Mapping):
        return {key: _encoded(one, (*way, _step(key)), tensors) for key, one in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value


def _decoded(kind: Kind, value: object, way: _Way, take: Take) -> Any:  # Any: of the kind
    if kind is Adapter:
        return _adapter(checked(_Layout, value, _where(way)), way, take)
    if kind is Tensor:
        return take("/".join(way), checked(tuple[_Size, ...], value, _where(way)))
    inner = get_args(kind)
    origin: Any = get_origin(kind)
    if origin in (Union, types.UnionType) and types.NoneType in inner:
        (some,) = (one for one in inner if one is not types.NoneType)  # `X | None` is all that is needed
        return None if value is None else _decoded(some, value, way, take)
    if dataclasses.is_dataclass(kind):
        return kind(**_fields(kind, value, way, take))  # type: ignore[operator]  # it is the class
    if origin is Mapping and _holds_tensors(inner[1]):
        found = _object(value, way)
        return {key: _decoded(inner[1], one, (*way, _step(key)), take) for key, one in found.items()}
    return checked(kind, value, _where(way))


def _fields(kind: Kind, value: object, way: _Way, take: Take) -> dict[str, Any]:
    found, kinds = _object(value, way), _hints(kind)
    if found.keys() != kinds.keys():
        missing, unknown = sorted(kinds.keys() - found.keys()), sorted(found.keys() - kinds.keys())
        raise CodecError(
            f"{_where(way)} lacks {', '.join(missing) or 'nothing'}, and {', '.join(unknown)[:60] or 'nothing'} in it "
            "is unknown: are both sides of one version?"
        )
    return {name: _decoded(kinds[name], found[name], (*way, name), take) for name in kinds}


def _object(value: object, way: _Way) -> dict[str, Any]:
    """A header's object; what is in it is checked where it is read."""
    if not isinstance(value, dict):
        raise CodecError(f"{_where(way)}: Input should be an object")
    return value


def _adapter(layout: _Layout, way: _Way, take: Take) -> Adapter:
    def taken(name: str, shape: tuple[int, ...]) -> Tensor:
        return take("/".join((*way, name)), shape)

    try:
        modules = {
            name: Factors(taken(f"{name}.a", (rank, d_in)), taken(f"{name}.b", (d_out, rank)), scale)
            for name, (d_out, rank, d_in, scale) in layout.modules.items()
        }
    except CodecError:
        raise
    except AdapterError as error:
        raise CodecError(f"{_where(way)}: {error}") from None
    return Adapter(modules, {name: taken(name, shape) for name, shape in layout.dense.items()})


def _step(key: str) -> str:
    """A key as one step of a way: two ways are never the same, whatever the keys are."""
    return key.replace("%", "%25").replace("/", "%2F")


def _where(way: _Way) -> str:
    return ".".join(part[:60] for part in way) or "it"


@cache
def _hints(kind: Kind) -> dict[str, Kind]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _holds_tensors(kind: Kind) -> bool:
    fields = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    inner = _hints(kind).values() if fields else get_args(kind)
    return kind in (Adapter, Tensor) or any(_holds_tensors(one) for one in inner)
