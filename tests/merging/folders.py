"""Adapter folders of random factors, written without the library, and the dense oracle of their mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."
SHAPES = {f"encoder.layer.{i}.{kind}": shape for i in (0, 1) for kind, shape in (("query", (7, 9)), ("dense", (10, 7)))}
"""Module -> (d_out, d_in): no layer is square."""


def write(
    folder: Path,
    ranks: Mapping[str, int] | int = 2,
    *,
    alpha: float = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    dense: Mapping[str, Sequence[int]] | None = None,
    **settings: Any,
) -> Path:
    """A folder as PEFT writes it; ranks of single modules go into ``rank_pattern``."""
    generator = torch.Generator().manual_seed(seed)
    of_module = ranks if isinstance(ranks, Mapping) else dict.fromkeys(SHAPES, ranks)
    tensors = {}
    for name, rank in of_module.items():
        d_out, d_in = SHAPES[name]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator).to(dtype)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator).to(dtype)
    for name, shape in (dense or {}).items():
        tensors[PREFIX + name] = torch.randn(*shape, generator=generator)
    common = next(iter(of_module.values()))
    written = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "some/base",
        "r": common,
        "lora_alpha": alpha,
        "rank_pattern": {name: rank for name, rank in of_module.items() if rank != common},
        "target_modules": ["query", "dense"],
        "modules_to_save": sorted({name.split(".")[0] for name in dense or {}}) or None,
        **settings,
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Change the configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors without PEFT's prefix."""
    return {k.removeprefix(PREFIX): v.clone() for k, v in load_file(folder / "adapter_model.safetensors").items()}


def replace_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Other tensors under names without PEFT's prefix."""
    save_file({PREFIX + name: tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


def deltas(folder: Path) -> dict[str, np.ndarray]:
    """``s B A`` of every module, from the files alone, for configurations with exact names in their patterns."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = {name: t.double().numpy() for name, t in tensors_of(folder).items()}
    out = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        r = (settings.get("rank_pattern") or {}).get(name, settings["r"])
        assert r == len(a)
        alpha = (settings.get("alpha_pattern") or {}).get(name, settings["lora_alpha"])
        out[name] = alpha / (r**0.5 if settings.get("use_rslora") else r) * (tensors[f"{name}.lora_B.weight"] @ a)
    return out


def mean_of(folders: Sequence[Path], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """The weighted mean of the products, each module over the folders that have it."""
    out: dict[str, np.ndarray] = {}
    found = [deltas(folder) for folder in folders]
    for name in {name for each in found for name in each}:
        owners = [(weight, each[name]) for weight, each in zip(weights, found, strict=True) if name in each]
        total = sum(weight for weight, _ in owners)
        out[name] = sum(weight / total * delta for weight, delta in owners)
    return out


def best(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of a rank."""
    u, s, vt = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]
