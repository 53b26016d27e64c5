"""What comes out of a merge: an adapter, what it lost, and the folder that plain PEFT loads."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.file import WEIGHTS
from polyrank.hf.peft.names import PREFIX
from polyrank.hf.peft.patterns import rank_settings
from polyrank.hf.peft.portable import portable as made_portable
from polyrank.hf.peft.portable import portable_settings
from polyrank.hf.peft.settings import SETTINGS
from polyrank.hf.peft.shared import OURS
from polyrank.merging.checks import Module


@dataclass(frozen=True)
class Loss:
    """What was lost of one module or of a group of them.

    Args:
        gap: ``|s B A - delta*|_F``, with delta* the weighted mean of the adapters' products.
        size: ``|delta*|_F``.
    """

    gap: float
    size: float

    @property
    def error(self) -> float:
        """The aggregation error, ``gap / size``; infinite where something stands for nothing."""
        if self.size > 0:
            return self.gap / self.size
        return 0.0 if self.gap == 0 else math.inf

    @staticmethod
    def together(losses: Iterable[Loss]) -> Loss:
        """The figures of all modules as one: norms add up in squares."""
        each = list(losses)
        return Loss(math.hypot(*(loss.gap for loss in each)), math.hypot(*(loss.size for loss in each)))


@dataclass(frozen=True, eq=False, repr=False)
class Merged:
    """One adapter made of several.

    Args:
        adapter: factors are two-dimensional, also those of convolutions; dense tensors with LoRA biases among them.
        method: the name of the method.
        losses: by module.
        modules: what is known of every module, by name.
        lacking: adapter -> modules and tensors that it lacks and others have.
        settings: of the inputs, as far as they stay.
        ours: the content of ``polyrank.json`` where all inputs have the same.
    """

    adapter: Adapter
    method: str
    losses: Mapping[str, Loss]
    modules: Mapping[str, Module]
    lacking: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]  # Any: JSON values
    ours: Any = None  # Any: JSON values

    def __repr__(self) -> str:
        modules = len(self.adapter.modules)
        return f"Merged({self.method}: {modules} modules, rank {self.adapter.rank}, aggregation error {self.error:.3g})"

    @property
    def error(self) -> float:
        """The aggregation error over all modules."""
        return Loss.together(self.losses.values()).error

    def groups(self) -> dict[str, list[str]]:
        """Modules by kind of layer: ``encoder.layer.3.attention.query`` belongs to ``attention.query``."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.adapter.modules:
            groups[group(name)].append(name)
        return dict(sorted(groups.items()))

    @property
    def serves(self) -> bool:
        """Whether it is for a model that writes, and all that servers such as vLLM take: LoRA of linear layers."""
        plain = all(self.modules[name].layer.kind == "linear" for name in self.adapter.modules)
        plain = plain and not self.settings.get("ensure_weight_tying")
        return self.settings.get("task_type") == "CAUSAL_LM" and plain and not self.adapter.dense

    def given(self, portable: bool | None = None) -> Adapter:
        """What `save` writes.

        Args:
            portable: whether at one rank and scale (`polyrank.hf.peft.portable`); by default where it `serves`.

        Raises:
            AdapterError: its rank is above what servers take, or tied layers would come apart.
        """
        if not (self.serves if portable is None else portable):
            return self.adapter
        if self.settings.get("ensure_weight_tying"):
            raise AdapterError("tied layers share their factors, which cannot have one scale; leave --portable out")
        return made_portable(self.adapter)

    def save(self, folder: Path | str, *, portable: bool | None = None) -> None:
        """Write a folder for ``PeftModel.from_pretrained``: all of it, or nothing.

        Args:
            folder: to write.
            portable: as in `given`.

        Raises:
            AdapterError: the folder exists and is not empty, or cannot be written; as `given`.
        """
        target, given = Path(folder), self.given(portable)
        check_free(target)
        writing = target.parent / f".{target.name}.{os.getpid()}.writing"
        try:
            writing.mkdir(parents=True)
            self._write(writing, given)
            if target.exists():
                target.rmdir()
            writing.rename(target)
        except (OSError, SafetensorError) as error:
            raise AdapterError(
                f"{target} cannot be written: {getattr(error, 'strerror', None) or error}; nothing was written"
            ) from error
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    def _write(self, folder: Path, given: Adapter) -> None:
        tensors = {PREFIX + name: tensor.contiguous() for name, tensor in given.dense.items()}
        for name, factors in given.modules.items():
            tensors |= self.modules[name].layer.stored(name, factors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        ranks = rank_settings(given) if given is self.adapter else portable_settings(given)
        settings = {**self.settings, **ranks}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if self.ours is not None:
            (folder / OURS).write_text(json.dumps(self.ours, indent=2) + "\n", encoding="utf-8")


def check_free(folder: Path) -> None:
    """Refuse to write over anything.

    Raises:
        AdapterError: the folder exists and is not empty.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise AdapterError(f"{folder} exists and is not empty; choose another folder")


def group(module: str) -> str:
    """The part of a module's name that its siblings in other layers share.

    >>> group("bert.encoder.layer.3.attention.self.query"), group("layers.0.experts.7.w1"), group("head.dense")
    ('attention.self.query', 'experts.*.w1', 'head.dense')
    """
    parts = module.split(".")
    first = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), -1)
    return ".".join("*" if part.isdigit() else part for part in parts[first + 1 :])
