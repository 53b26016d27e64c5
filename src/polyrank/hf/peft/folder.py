"""An `Adapter` as a folder that plain PEFT loads, and back: the only place that knows PEFT's file format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from safetensors.torch import save_file
from torch import Tensor

from polyrank import config as configuration
from polyrank.config import ModelConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, CodecError
from polyrank.core.files import read_whole
from polyrank.core.strict import checked
from polyrank.hf.beside import Beside, generation_of
from polyrank.hf.load import BaseModel, load_base
from polyrank.hf.peft import shared
from polyrank.hf.peft.file import WEIGHTS, AdapterFile
from polyrank.hf.peft.names import PREFIX
from polyrank.hf.peft.patterns import exact_targets, rank_settings
from polyrank.hf.peft.portable import portable_settings
from polyrank.hf.peft.settings import SETTINGS
from polyrank.hf.peft.shared import OURS
from polyrank.hf.peft.tying import ties

CLASSIFICATION = "classification"
"""The task of a folder that names none."""


@dataclass(frozen=True)
class Target:
    """What an adapter belongs to, and what it was trained for.

    Args:
        model: the resolved model section.
        labels: names of the classes, or of what else a head gives; none for a model that writes.
        head_modules: of the head.
        task: its name in a configuration.
        options: of the task, such as the template of prompts.
    """

    model: ModelConfig
    labels: tuple[str, ...]
    head_modules: tuple[str, ...]
    task: str = CLASSIFICATION
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether it is a model that writes."""
        return not self.labels


class _Learned(pydantic.BaseModel):
    """What ``polyrank.json`` says of the task."""

    name: str = CLASSIFICATION
    options: dict[str, Any] = {}  # Any: JSON values


class _Ours(pydantic.BaseModel):
    """What ``polyrank.json`` holds."""

    model: dict[str, Any]  # Any: JSON values, which the configuration checks
    labels: tuple[str, ...]
    head_modules: tuple[str, ...]
    task: _Learned = _Learned()


def write(folder: Path, adapter: Adapter, target: Target, beside: Beside | None = None) -> None:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and ``polyrank.json``, and what lies ``beside``.

    Ranks and scales that differ from module to module become ``rank_pattern`` and ``alpha_pattern``; dense tensors
    become ``modules_to_save``. ``PeftModel.from_pretrained(base, folder)`` then computes the same logits, where
    ``base`` is what `base_model` returns for the folder (with head ``model``:
    what ``AutoModelForSequenceClassification.from_pretrained`` returns). A model that writes is that of
    ``AutoModelForCausalLM.from_pretrained``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(adapter), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / SETTINGS).write_text(json.dumps(_settings(adapter, target), indent=2) + "\n", encoding="utf-8")
    ours = {
        "model": target.model.model_dump(mode="json"),
        "labels": list(target.labels),
        "head_modules": list(target.head_modules),
    }
    if target.task != CLASSIFICATION or target.options:
        ours["task"] = {"name": target.task, "options": dict(target.options)}
    (folder / OURS).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    if beside is not None:
        beside.save(folder, generation_of(target.model))


def write_shared(folder: Path, adapter: Adapter, stay: Sequence[str]) -> None:
    """Write the part of an adapter that clients share, in a folder that nothing takes for an adapter.

    Args:
        folder: as in `write`.
        adapter: of the server.
        stay: the parts that stay with the clients, ``"B"`` and ``"head"``; they are left out.
    """
    tensors = _tensors(adapter)
    shared.write_shared(
        folder,
        {
            name: tensor
            for name, tensor in tensors.items()
            if not ("B" in stay and name.endswith(".lora_B.weight"))
            and not ("head" in stay and name.removeprefix(PREFIX) in adapter.dense)
        },
        stay,
    )


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.b.contiguous()
    return tensors | {PREFIX + name: tensor.contiguous() for name, tensor in adapter.dense.items()}


def _settings(adapter: Adapter, target: Target) -> dict[str, Any]:
    # under SEQ_CLS PEFT wraps `classifier` and `score` whole, which must not hold another saved module
    plain = target.model.head == "model" and not any("." in name for name in target.head_modules)
    targets = target.model.targets
    by_pattern = isinstance(targets, str) and not re.fullmatch(r"[\w-]+", targets)  # a list would match endings, too
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if target.writes else "SEQ_CLS" if plain else None,
        "base_model_name_or_path": target.model.name,
        "revision": target.model.revision,
        **(portable_settings(adapter) if target.writes else rank_settings(adapter)),
        "target_modules": exact_targets(adapter.modules) if by_pattern else sorted(adapter.modules),
        "modules_to_save": list(target.head_modules) or None,
        "lora_dropout": target.model.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def read(folder: Path) -> Adapter:
    """Read an adapter folder of PEFT's LoRA, ours or anybody's.

    Scales come from ``lora_alpha``, ``r``, ``use_rslora`` and the patterns, never from tensor shapes alone: a
    configuration that contradicts the tensors is an error.

    Raises:
        AdapterError: a file is missing or damaged, the adapter is no plain LoRA of linear layers, or config and tensors
            disagree.
    """
    with AdapterFile(folder) as file:
        if (bias := file.settings.get("bias") or "none") != "none":
            raise AdapterError(f"{folder}: the adapter trains biases of the base (bias is {bias}); expected plain LoRA")
        if file.settings.get("lora_bias"):
            raise AdapterError(f"{folder}: the adapter has lora_bias; expected plain LoRA")
        if ties(file):
            raise AdapterError(f"{folder}: the adapter ties layers (ensure_weight_tying); expected plain LoRA")
        for name, layer in file.layers.items():
            if layer.kind != "linear":
                raise AdapterError(
                    f"{folder}: {name} has LoRA of the kind {layer.kind}; expected plain LoRA of a linear layer"
                )
        return Adapter({n: file.factors(n) for n in file.layers}, {n: file.tensor(n) for n in file.dense})


def read_target(folder: Path) -> Target:
    """What an adapter that PolyRank wrote belongs to.

    Raises:
        AdapterError: ``polyrank.json`` is missing or damaged, or the folder holds but what clients share.
    """
    path = folder / OURS
    if reason := shared.what_is_missing(folder):
        raise AdapterError(reason)
    try:
        ours: _Ours = checked(_Ours, json.loads(read_whole(path)), "it")
        model = configuration.parse({"model": ours.model}, str(path)).model
        return Target(model, ours.labels, ours.head_modules, ours.task.name, ours.task.options)
    except FileNotFoundError:
        raise AdapterError(f"{folder} was not written by PolyRank: it has no {OURS}; load its base yourself") from None
    except (OSError, ValueError, RecursionError, CodecError) as error:
        raise AdapterError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def base_model(folder: Path | str, **options: Any) -> BaseModel:  # Any: as load_base takes them
    """The base model, with its head, that an adapter folder of ours belongs to.

    ``PeftModel.from_pretrained(base_model(folder).model, folder)`` is then the trained model.

    Raises:
        AdapterError: the folder was not written by PolyRank.
        ModelError: the base cannot be loaded.
    """
    target = read_target(Path(folder))
    return load_base(target.model, target.labels, **options)
