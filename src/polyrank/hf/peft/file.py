"""An adapter folder of PEFT's LoRA, read tensor by tensor: names, shapes and scales at once, values when asked for."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyrank.core.adapter import Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.names import PREFIX, SUFFIXES, Factor, Kind, Side, factor, ignored, inner_name, unwrapped
from polyrank.hf.peft.patterns import rank_and_scale, targeted
from polyrank.hf.peft.settings import SETTINGS, Settings, read_settings

WEIGHTS = "adapter_model.safetensors"

_SUFFIX = {(side, kind): suffix for suffix, (side, kind) in SUFFIXES.items()}
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Layer:
    """One module as its file describes it, before any value is read.

    Args:
        kind: an embedding's delta is stored transposed, a convolution's factors have the kernel as further dimensions.
        a: shape of A as stored, ``(rank, ...)``.
        b: shape of B as stored, ``(d_out, rank, ...)``.
        scale: alpha / rank, or alpha / sqrt(rank).
        dtype: that holds both factors.
        bias: whether B has a bias (PEFT's ``lora_bias``).
    """

    kind: Kind
    a: tuple[int, ...]
    b: tuple[int, ...]
    scale: float
    dtype: torch.dtype
    bias: bool = False

    @property
    def rank(self) -> int:
        return self.a[0]

    @property
    def d_in(self) -> int:
        """Inputs of the flattened layer: of a convolution, channels times kernel."""
        return math.prod(self.a[1:])

    @property
    def d_out(self) -> int:
        return self.b[0]

    def stored(self, name: str, factors: Factors) -> dict[str, Tensor]:
        """Factors of any rank as PEFT's file has them, by key."""
        a = factors.a.reshape(factors.rank, *self.a[1:])
        b = factors.b.reshape(self.d_out, factors.rank, *self.b[2:])
        return {
            PREFIX + _tensor(name, "a", self.kind): a.contiguous(),
            PREFIX + _tensor(name, "b", self.kind): b.contiguous(),
        }


class AdapterFile:
    """An open adapter folder. Use it as a context manager.

    Names are those of the base's modules: without PEFT's prefix, and without what `torch.compile` and other wrappers
    put into them.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Attributes:
        settings: of the adapter.
        layers: module name -> `Layer`.
        dense: names and shapes of the tensors that are whole.
        renamed: whether a name differs from the one that PEFT knew.

    Raises:
        AdapterError: a file is missing or damaged, the adapter is more than LoRA with biases, a name is unsafe, a
            tensor is empty, or config and tensors disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        read = read_settings(folder)
        saved = [unwrapped(name) for name in read.get("modules_to_save") or ()]
        self.settings: Settings = {**read, "modules_to_save": [name for name in saved if name] or None}
        self._open: Any = _open(folder)  # Any: safetensors has no types
        self._keys: dict[str, str] = {}
        for key in sorted(self._open.keys()):
            name = _checked(folder, key)
            if ignored(name):
                continue
            if name in self._keys:
                raise AdapterError(f"{folder}: {WEIGHTS} holds {name} twice: as {self._keys[name]} and as {key}")
            self._keys[name] = key
        self._shapes = {name: tuple(self._open.get_slice(key).get_shape()) for name, key in self._keys.items()}
        self.renamed = any(inner_name(key) != name for name, key in self._keys.items())
        parts: dict[str, dict[Side, Kind]] = {}
        self.dense: Mapping[str, tuple[int, ...]] = {}
        for name, shape in self._shapes.items():
            if 0 in shape:
                raise AdapterError(
                    f"{folder}: {name} is empty, {list(shape)}: its values lay on other processes when it was saved "
                    "(DeepSpeed ZeRO-3, FSDP); gather them and save again"
                )
            if part := self._factor(name):
                parts.setdefault(part.module, {})[part.side] = part.kind
            else:
                self.dense = {**self.dense, name: shape}
        self.layers: Mapping[str, Layer] = {name: self._layer(name, sides) for name, sides in parts.items()}
        if not self.layers:
            raise AdapterError(f"{folder}: {WEIGHTS} holds no LoRA factors")
        for name in self.layers:
            self._check_targeted(name)
        for name, shape in self.dense.items():
            if any(name.startswith(f"{layer}.") for layer in self.layers) and ".base_layer." not in name:
                raise AdapterError(f"{folder}: {name} {list(shape)} is trained whole, and its module by LoRA too")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)

    def factors(self, name: str) -> Factors:
        """One module's factors, two-dimensional whatever its kind."""
        layer = self.layers[name]
        a, b = (self._value(_tensor(name, side, layer.kind)) for side in _SIDES)
        return Factors(a.flatten(1), b.flatten(1), layer.scale)

    def bias(self, name: str) -> Tensor:
        """The bias of one module's B, to be scaled like B itself; ``(d_out,)``."""
        return self._value(_tensor(name, "bias", "linear"))

    def tensor(self, name: str) -> Tensor:
        """One dense tensor."""
        return self._value(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of one dense tensor."""
        return self.tensor(name).dtype

    def without(self, start: str) -> Self:
        """The same open adapter with names that lack a common start."""
        out = copy.copy(self)
        out.renamed = True
        out._keys = {name.removeprefix(start): key for name, key in self._keys.items()}
        out.dense = {name.removeprefix(start): shape for name, shape in self.dense.items()}
        out.layers = {name.removeprefix(start): layer for name, layer in self.layers.items()}
        saved = self.settings.get("modules_to_save") or ()
        out.settings = {**self.settings, "modules_to_save": [name.removeprefix(start) for name in saved]}
        return out

    def _value(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._open.get_tensor(self._keys[name])
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{self.folder / WEIGHTS} cannot be read: {error}") from None
        return tensor

    def _factor(self, name: str) -> Factor | None:
        try:
            return factor(name)
        except AdapterError as error:
            raise AdapterError(f"{self.folder}: {error}") from None

    def _spellings(self, name: str) -> set[str]:
        """One module's name, and what it was where PEFT knew it under another."""
        stored = next(self._keys[each] for each in (f"{name}{suffix}" for suffix in SUFFIXES) if each in self._keys)
        before = factor(inner_name(stored) or stored)
        return {name, before.module if before else name}

    def _layer(self, name: str, sides: Mapping[Side, Kind]) -> Layer:
        found = sorted("lora_" + side.upper() for side in sides if side != "bias")
        if found != ["lora_A", "lora_B"]:
            raise AdapterError(
                f"{self.folder}: module {name} has {', '.join(found) or 'a bias'} only; expected lora_A and lora_B"
            )
        if sides["a"] != sides["b"]:
            raise AdapterError(f"{self.folder}: module {name} is half an embedding and half a linear layer")
        tensors = [_tensor(name, side, sides["a"]) for side in _SIDES]
        a, b = (self._shapes[tensor] for tensor in tensors)
        codes = [self._open.get_slice(self._keys[tensor]).get_dtype() for tensor in tensors]
        if unknown := [code for code in codes if code not in _DTYPES]:
            raise AdapterError(f"{self.folder}: {name} is stored as {unknown[0]}; expected {', '.join(_DTYPES)}")
        if len(a) < 2 or len(a) != len(b) or any(side != 1 for side in b[2:]):
            raise AdapterError(f"{self.folder}: {name} has lora_A {list(a)} and lora_B {list(b)}, which do not fit")
        rank, scale = rank_and_scale(self.folder, self.settings, self._spellings(name))
        if rank != a[0]:
            raise AdapterError(f"{self.folder}: {SETTINGS} says rank {rank} for {name}, but its lora_A has {a[0]} rows")
        if b[1] != a[0]:
            why = "a grouped convolution cannot be read" if len(a) > 2 and b[1] < a[0] else "expected the rank in both"
            raise AdapterError(f"{self.folder}: {name} has lora_A {list(a)} and lora_B {list(b)}; {why}")
        bias = self._shapes.get(_tensor(name, "bias", "linear"))
        if bias not in (None, b[:1]):
            raise AdapterError(f"{self.folder}: the lora_bias of {name} is {list(bias)}; expected {[b[0]]}")
        if bias and not self.settings.get("lora_bias"):
            raise AdapterError(f"{self.folder}: {name} has a LoRA bias, but lora_bias is not set; PEFT leaves it out")
        kind: Kind = "convolution" if len(a) > 2 else sides["a"]
        dtype = torch.promote_types(_DTYPES[codes[0]], _DTYPES[codes[1]])
        return Layer(kind, a, b, scale, dtype, bias is not None)

    def _check_targeted(self, name: str) -> None:
        if any(targeted(self.folder, self.settings, each) for each in self._spellings(name)):
            return
        # PEFT takes the layer that is tied to an embedding out of the target modules that it saves
        tying = self.settings.get("ensure_weight_tying")
        if not (tying and any(layer.kind == "embedding" for layer in self.layers.values())):
            raise AdapterError(
                f"{self.folder}: {WEIGHTS} holds LoRA factors of {name}, which the target modules of {SETTINGS} leave "
                "out, so that PEFT does not load them; expected settings and factors of the same modules"
            )


_SIDES: tuple[Side, Side] = ("a", "b")


def _tensor(module: str, side: Side, kind: Kind) -> str:
    """The name of one side of a module's factors."""
    return module + _SUFFIX[side, "embedding" if kind == "embedding" else "linear"]


def _open(folder: Path) -> Any:  # Any: safetensors has no types
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.is_file():
            raise AdapterError(f"{pickled} is a pickle, which is never loaded; save the adapter as safetensors")
        raise AdapterError(f"{folder} has no {WEIGHTS}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith((b"PK\x03\x04", b"\x80")):  # torch.save, new and old
            raise AdapterError(f"{path} is a pickle, which is never loaded; save the adapter as safetensors") from None
        raise AdapterError(f"{path} cannot be read: {error}") from None


def _checked(folder: Path, key: str) -> str:
    """A tensor's name without PEFT's prefix and without what wrappers put into it."""
    name = inner_name(key)
    if name is None or not all(name.split(".")) or re.search(r"[/\\\s]", name) or not name.isprintable():
        raise AdapterError(f"{folder}: {key!r} is no name of a tensor; expected {PREFIX}MODULE.PARAMETER")
    return unwrapped(name)
