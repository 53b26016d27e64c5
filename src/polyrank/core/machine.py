"""Versions and hardware of the machine on which something runs."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIDE = 512
"""Of the matrices whose product tells a machine's rate."""
LIBRARIES = ("polyrank", "torch", "transformers", "peft", "datasets", "numpy")


def about_this_machine() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    import torch

    versions: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def processor() -> str:
    """What the processor is called."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def gflops(dtype: torch.dtype) -> float:
    """Rate of a square matrix product on this machine's accelerator or cores, best of five after one to warm up."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best / 1e9
