"""An `Adapter` as a folder that plain PEFT loads, and back: the only place that knows PEFT's file format."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyrank import config as configuration
from polyrank.adapter import Adapter, Factors
from polyrank.config import ModelConfig
from polyrank.errors import AdapterError
from polyrank.hf.base import BaseModel, load_base

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
OURS = "polyrank.json"
"""What PEFT has no field for: the labels, and the model section with the head. PEFT ignores this file."""


MORE_THAN_LORA = (
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "target_parameters", "kasa_config"),
    *("trainable_token_indices", "alora_invocation_tokens", "arrow_config", "monteclora_config"),
)
"""Options of PEFT under which an adapter is not, or not only, ``scale * B @ A`` on linear layers."""

CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take something out of the base's weights, on which the saved factors then rely."""


@dataclass(frozen=True)
class Target:
    """What an adapter belongs to: the resolved model section, the names of the classes, the modules of the head."""

    model: ModelConfig
    labels: tuple[str, ...]
    head_modules: tuple[str, ...]


def write(folder: Path, adapter: Adapter, target: Target) -> None:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and ``polyrank.json``.

    Ranks and scales that differ from module to module become ``rank_pattern`` and ``alpha_pattern``; dense tensors
    become ``modules_to_save``. ``PeftModel.from_pretrained(base, folder)`` then computes the same logits, where
    ``base`` is what `base_model` returns for the folder (with head ``model``:
    what ``AutoModelForSequenceClassification.from_pretrained`` returns).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.b.contiguous()
    for name, tensor in adapter.dense.items():
        tensors[PREFIX + name] = tensor.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / SETTINGS).write_text(json.dumps(_settings(adapter, target), indent=2) + "\n", encoding="utf-8")
    ours = {
        "model": target.model.model_dump(mode="json"),
        "labels": list(target.labels),
        "head_modules": list(target.head_modules),
    }
    (folder / OURS).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def _settings(adapter: Adapter, target: Target) -> dict[str, Any]:
    ranks = {name: factors.rank for name, factors in adapter.modules.items()}
    alphas = {name: _alpha(factors) for name, factors in adapter.modules.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    # under SEQ_CLS PEFT wraps `classifier` and `score` whole, which must not hold another saved module
    plain = target.model.head == "model" and not any("." in name for name in target.head_modules)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if plain else None,
        "base_model_name_or_path": target.model.name,
        "revision": target.model.revision,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "target_modules": sorted(adapter.modules),
        "modules_to_save": list(target.head_modules) or None,
        "lora_dropout": target.model.dropout,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _alpha(factors: Factors) -> float:
    """The alpha that, divided by the rank, gives the scale back: to the last bit, where there is such a number."""
    near = factors.scale * factors.rank
    candidates = (round(near, 9), near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf))
    return next((alpha for alpha in candidates if alpha / factors.rank == factors.scale), near)


def read(folder: Path) -> Adapter:
    """Read an adapter folder of PEFT's LoRA, ours or anybody's.

    Scales come from ``lora_alpha``, ``r``, ``use_rslora`` and the patterns, never from tensor shapes alone: a
    configuration that contradicts the tensors is an error.

    Raises:
        AdapterError: a file is missing or damaged, the adapter is no plain LoRA, or config and tensors disagree.
    """
    settings = read_settings(folder)
    tensors = _read_tensors(folder)
    modules: dict[str, dict[str, Tensor]] = {}
    dense: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        for part in ("lora_A", "lora_B"):
            if name.endswith(f".{part}.weight"):
                modules.setdefault(name.removesuffix(f".{part}.weight"), {})[part] = tensor
                break
        else:
            if "lora_" in name:
                raise AdapterError(f"{folder}: {name} is no plain LoRA factor of a linear layer; it cannot be read")
            dense[name] = tensor
    factors: dict[str, Factors] = {}
    for name, pair in modules.items():
        if len(pair) != 2:
            raise AdapterError(f"{folder}: module {name} has {', '.join(pair)} only; expected lora_A and lora_B")
        rank = pair["lora_A"].shape[0]
        declared, scale = _rank_and_scale(folder, settings, name)
        if declared != rank:
            raise AdapterError(f"{folder}: {SETTINGS} says rank {declared} for {name}, but its lora_A has {rank} rows")
        factors[name] = Factors(pair["lora_A"], pair["lora_B"], scale)
    if not factors:
        raise AdapterError(f"{folder}: {WEIGHTS} holds no LoRA factors")
    return Adapter(factors, dense)


def read_settings(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of a plain LoRA adapter.

    Raises:
        AdapterError: it is missing, damaged or not of plain LoRA.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{folder} is no adapter folder: it has no {SETTINGS}") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise AdapterError(f"{path} holds a {type(settings).__name__}; expected the settings of an adapter")
    if settings.get("peft_type") != "LORA":
        raise AdapterError(f"{folder} holds a {settings.get('peft_type')} adapter; expected LORA")
    more = [option for option in MORE_THAN_LORA if settings.get(option)]
    if settings.get("bias", "none") != "none":
        more.append("bias")
    if str(settings.get("init_lora_weights")).startswith(CHANGE_THE_BASE):
        more.append(f"init_lora_weights {settings['init_lora_weights']!r}")
    if more:
        raise AdapterError(
            f"{folder}: the adapter has {more[0]}, which is more than scale * B @ A; expected plain LoRA"
        )
    return settings


def read_target(folder: Path) -> Target:
    """What an adapter that PolyRank wrote belongs to.

    Raises:
        AdapterError: ``polyrank.json`` is missing or damaged.
    """
    path = folder / OURS
    try:
        ours = json.loads(path.read_text(encoding="utf-8"))
        model = configuration.parse({"model": ours["model"]}, str(path)).model
        return Target(model, tuple(ours["labels"]), tuple(ours["head_modules"]))
    except FileNotFoundError:
        raise AdapterError(f"{folder} was not written by PolyRank: it has no {OURS}; load its base yourself") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
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


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.is_file():
            raise AdapterError(f"{pickled} is a pickle, which is never loaded; save the adapter as safetensors")
        raise AdapterError(f"{folder} has no {WEIGHTS}")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from None


def _rank_and_scale(folder: Path, settings: Mapping[str, Any], name: str) -> tuple[int, float]:
    """What the configuration says of one module; patterns match whole names or their endings, as in PEFT."""
    rank = _pattern(settings.get("rank_pattern") or {}, name, settings.get("r"))
    alpha = _pattern(settings.get("alpha_pattern") or {}, name, settings.get("lora_alpha"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise AdapterError(
            f"{folder / SETTINGS}: r is {rank!r} and lora_alpha {alpha!r} for {name}; expected numbers above 0"
        )
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:  # Any: JSON values
    from peft.utils.other import get_pattern_key

    return patterns.get(get_pattern_key(list(patterns), name), default)
