"""What machine a figure was measured on."""

from __future__ import annotations

from typing import Any

from polyrank.core.machine import about_this_machine, processor


def machine() -> dict[str, Any]:
    """Processor, cores, versions: what stands beside every figure."""
    return {"processor": processor(), **about_this_machine()}
