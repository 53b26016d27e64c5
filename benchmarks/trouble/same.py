"""Whether two runs ended in the same way, bit for bit, and how a run is brought to its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polyrank.runs import checkpoint

FILES = (
    *("config.toml", "clients.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    "adapter/polyrank.json",
)
"""What two runs have in common. A run that went on asks for what the first start had settled (requested.toml)."""
MEASURED = ("seconds", "memory/peak", "tokens/second")
"""What no two runs have in common."""
STARTS = 8
"""After which it is a fault that a run has not ended."""

Call = Callable[[Sequence[str]], tuple[int, str]]
"""Runs ``polyrank run`` with more arguments; its exit code and what it said."""


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two finished run folders."""
    found = [name for name in FILES if (one / name).read_bytes() != (other / name).read_bytes()]
    a, b = (checkpoint.load(folder / "checkpoint") for folder in (one, other))
    if not a.adapter.identical(b.adapter) or (a.round, a.ranks, a.scales) != (b.round, b.ranks, b.scales):
        found.append("checkpoint")
    if _lines(one) != _lines(other):
        found.append("metrics.jsonl")
    if _without(json.loads((one / "summary.json").read_bytes())) != _without(
        json.loads((other / "summary.json").read_bytes())
    ):
        found.append("summary.json")
    return found


def brought_to_its_end(call: Call) -> tuple[list[str], str]:
    """Go on with a run as its own messages say.

    Returns:
        What was done, and what is wrong; nothing where the run came to its end.
    """
    done: list[str] = []
    argument = "--resume"
    for _ in range(STARTS):
        code, said = call([argument] if argument else [])
        done.append(argument or "anew")
        if code == 0:
            return done, ""
        if code != 2 or "error: " not in said or "Traceback" in said:
            return done, f"exit code {code}: {said[-600:]}"
        if "--overwrite" in said and argument != "--overwrite":
            argument = "--overwrite"
        elif "is no run folder: it has no config.toml" in said and argument == "--resume":
            argument = ""
        else:
            return done, f"no way on: {said[-600:]}"
    return done, f"not at its end after {STARTS} starts"


def left_over(folder: Path) -> list[str]:
    """Files of half a write that stayed."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*writing*"))


def _lines(folder: Path) -> list[dict[str, Any]]:  # Any: JSON values
    return [_without(json.loads(line)) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _without(values: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    return {key: value for key, value in values.items() if key not in MEASURED and not key.startswith("time")}
