"""An adapter folder of PEFT's LoRA, read tensor by tensor: names, shapes and scales at once, values when asked for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyrank.adapter import Factors
from polyrank.errors import AdapterError
from polyrank.hf.shared import what_is_missing

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"

MORE_THAN_LORA = (
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "target_parameters", "kasa_config"),
    *("trainable_token_indices", "alora_invocation_tokens", "arrow_config", "monteclora_config"),
)
"""Options of PEFT under which an adapter is not, or not only, ``scale * B @ A`` on linear layers."""

CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take something out of the base's weights, on which the saved factors then rely."""

Kind = Literal["linear", "embedding", "convolution"]

_SUFFIXES: Mapping[str, tuple[str, Kind]] = {
    ".lora_A.weight": ("a", "linear"),
    ".lora_B.weight": ("b", "linear"),
    ".lora_B.bias": ("bias", "linear"),
    ".lora_embedding_A": ("a", "embedding"),
    ".lora_embedding_B": ("b", "embedding"),
}
_TYPES = {
    **{"base_model_name_or_path": str, "revision": str, "task_type": str, "bias": str},
    **{"modules_to_save": list, "rank_pattern": dict, "alpha_pattern": dict},
}
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
        if self.kind == "embedding":
            keys = f"{PREFIX}{name}.lora_embedding_A", f"{PREFIX}{name}.lora_embedding_B"
        else:
            keys = f"{PREFIX}{name}.lora_A.weight", f"{PREFIX}{name}.lora_B.weight"
        a = factors.a.reshape(factors.rank, *self.a[1:])
        b = factors.b.reshape(self.d_out, factors.rank, *self.b[2:])
        return {keys[0]: a.contiguous(), keys[1]: b.contiguous()}


class AdapterFile:
    """An open adapter folder. Use it as a context manager.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Attributes:
        layers: module name -> `Layer`.
        dense: names, shapes and dtypes of the tensors that are whole.

    Raises:
        AdapterError: a file is missing or damaged, the adapter is more than LoRA with biases, a name is unsafe, or
            config and tensors disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_settings(folder, allowed=("lora_bias", "bias", "use_dora"))
        self._open: Any = _open(folder)  # Any: safetensors has no types
        self._shapes = {key: tuple(self._slice(key).get_shape()) for key in self._open.keys()}  # noqa: SIM118  # no dict
        parts: dict[str, dict[str, Kind]] = {}
        self._dense: dict[str, tuple[int, ...]] = {}
        for key in sorted(self._shapes):
            name = _checked(folder, key)
            for suffix, (part, kind) in _SUFFIXES.items():
                if name.endswith(suffix):
                    parts.setdefault(name.removesuffix(suffix), {})[part] = kind
                    break
            else:
                self._refuse(name)
                self._dense[name] = self._shapes[key]
        if self.settings.get("use_dora"):
            raise AdapterError(f"{folder}: the adapter has use_dora, which is more than scale * B @ A")
        self.layers: Mapping[str, Layer] = {name: self._layer(name, kinds) for name, kinds in parts.items()}
        if not self.layers:
            raise AdapterError(f"{folder}: {WEIGHTS} holds no LoRA factors")
        for name, shape in self._dense.items():
            if any(name.startswith(f"{layer}.") for layer in self.layers) and ".base_layer." not in name:
                raise AdapterError(f"{folder}: {name} {list(shape)} is trained whole, and its module by LoRA too")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)

    @property
    def dense(self) -> Mapping[str, tuple[int, ...]]:
        return self._dense

    def factors(self, name: str) -> Factors:
        """One module's factors, two-dimensional whatever its kind."""
        layer = self.layers[name]
        stem = PREFIX + name + (".lora_embedding_" if layer.kind == "embedding" else ".lora_")
        end = "" if layer.kind == "embedding" else ".weight"
        a, b = self._value(f"{stem}A{end}"), self._value(f"{stem}B{end}")
        return Factors(a.flatten(1), b.flatten(1), layer.scale)

    def bias(self, name: str) -> Tensor:
        """The bias of one module's B, to be scaled like B itself; ``(d_out,)``."""
        return self._value(f"{PREFIX}{name}.lora_B.bias")

    def tensor(self, name: str) -> Tensor:
        """One dense tensor."""
        return self._value(PREFIX + name)

    def dtype(self, name: str) -> torch.dtype:
        """Of one dense tensor."""
        return self.tensor(name).dtype

    def _slice(self, key: str) -> Any:  # Any: safetensors has no types
        return self._open.get_slice(key)

    def _value(self, key: str) -> Tensor:
        try:
            tensor: Tensor = self._open.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{self.folder / WEIGHTS} cannot be read: {error}") from None
        return tensor

    def _layer(self, name: str, parts: Mapping[str, Kind]) -> Layer:
        found = sorted("lora_" + part.upper() for part in parts if part != "bias")
        if found != ["lora_A", "lora_B"]:
            raise AdapterError(
                f"{self.folder}: module {name} has {', '.join(found) or 'a bias'} only; expected lora_A and lora_B"
            )
        embedding = parts["a"] == "embedding"
        if (parts["b"] == "embedding") != embedding:
            raise AdapterError(f"{self.folder}: module {name} is half an embedding and half a linear layer")
        keys = [PREFIX + name + (f".lora_embedding_{x}" if embedding else f".lora_{x}.weight") for x in "AB"]
        a, b = (self._shapes[key] for key in keys)
        codes = [self._slice(key).get_dtype() for key in keys]
        if unknown := [code for code in codes if code not in _DTYPES]:
            raise AdapterError(f"{self.folder}: {name} is stored as {unknown[0]}; expected {', '.join(_DTYPES)}")
        if len(a) < 2 or len(a) != len(b) or 0 in (*a, *b) or any(side != 1 for side in b[2:]):
            raise AdapterError(f"{self.folder}: {name} has lora_A {list(a)} and lora_B {list(b)}, which do not fit")
        rank, scale = _rank_and_scale(self.folder, self.settings, name)
        if rank != a[0]:
            raise AdapterError(f"{self.folder}: {SETTINGS} says rank {rank} for {name}, but its lora_A has {a[0]} rows")
        if b[1] != a[0]:
            why = "a grouped convolution cannot be read" if len(a) > 2 and b[1] < a[0] else "expected the rank in both"
            raise AdapterError(f"{self.folder}: {name} has lora_A {list(a)} and lora_B {list(b)}; {why}")
        bias = self._shapes.get(f"{PREFIX}{name}.lora_B.bias")
        if bias not in (None, b[:1]):
            raise AdapterError(f"{self.folder}: the lora_bias of {name} is {list(bias)}; expected {[b[0]]}")
        kind: Kind = "embedding" if embedding else "linear" if len(a) == 2 else "convolution"
        dtype = torch.promote_types(_DTYPES[codes[0]], _DTYPES[codes[1]])
        return Layer(kind, a, b, scale, dtype, bias is not None)

    def _refuse(self, name: str) -> None:
        if "lora_magnitude_vector" in name:
            module = name.partition(".lora_magnitude_vector")[0]
            raise AdapterError(
                f"{self.folder}: {module} has a lora_magnitude_vector (DoRA): its update depends on the weights of the "
                "base and is not scale * B @ A; merge it into its base first"
            )
        if "lora_" in name:
            raise AdapterError(f"{self.folder}: {name} is no plain LoRA factor of a linear layer; it cannot be read")


def read_settings(folder: Path, allowed: Collection[str] = ()) -> dict[str, Any]:
    """``adapter_config.json`` of a LoRA adapter; of a plain one, but for the options ``allowed``.

    Raises:
        AdapterError: it is missing, damaged or not of LoRA.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = what_is_missing(folder) or f"{folder} is no adapter folder: it has no {SETTINGS}"
        raise AdapterError(reason) from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise AdapterError(f"{path} holds a {type(settings).__name__}; expected the settings of an adapter")
    for key, kind in _TYPES.items():
        if not isinstance(settings.get(key), kind | None):
            raise AdapterError(f"{path}: {key} is {settings[key]!r}; expected a {kind.__name__} or null")
    if settings.get("peft_type") != "LORA":
        raise AdapterError(f"{folder} holds a {settings.get('peft_type')} adapter; expected LORA")
    more = [option for option in MORE_THAN_LORA if settings.get(option)]
    if (settings.get("bias") or "none") != "none":
        more.append("bias")
    more = [option for option in more if option not in allowed]
    if str(settings.get("init_lora_weights")).startswith(CHANGE_THE_BASE):
        more.append(f"init_lora_weights {settings['init_lora_weights']!r}")
    if more:
        raise AdapterError(
            f"{folder}: the adapter has {more[0]}, which is more than scale * B @ A; expected plain LoRA"
        )
    return settings


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
    """A tensor's name without PEFT's prefix."""
    name = key.removeprefix(PREFIX)
    if name == key or not all(name.split(".")) or re.search(r"[/\\\s]", name) or not name.isprintable():
        raise AdapterError(f"{folder}: {key!r} is no name of a tensor; expected {PREFIX}MODULE.PARAMETER")
    return name


def _rank_and_scale(folder: Path, settings: Mapping[str, Any], name: str) -> tuple[int, float]:
    """What the configuration says of one module; patterns match whole names or their endings, as in PEFT."""
    rank = _pattern(folder, settings, "rank_pattern", name, settings.get("r"))
    alpha = _pattern(folder, settings, "alpha_pattern", name, settings.get("lora_alpha"))
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool) and math.isfinite(alpha)
    if not isinstance(rank, int) or rank < 1 or not number:
        raise AdapterError(
            f"{folder / SETTINGS}: r is {rank!r} and lora_alpha {alpha!r} for {name}; expected numbers above 0"
        )
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _pattern(folder: Path, settings: Mapping[str, Any], which: str, name: str, default: Any) -> Any:  # Any: JSON values
    patterns = settings.get(which) or {}
    if not patterns:
        return default
    from peft.utils.other import get_pattern_key

    try:
        return patterns.get(get_pattern_key(list(patterns), name), default)
    except re.error as error:
        raise AdapterError(f"{folder / SETTINGS}: a name in {which} is no regular expression: {error}") from None
