"""What machine a figure was measured on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from polyrank.runs.machine import about_this_machine


def machine() -> dict[str, Any]:
    """Processor, cores, versions: what stands beside every figure."""
    return {"processor": _processor(), **about_this_machine()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
