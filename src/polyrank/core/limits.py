"""What of the machine this process may use: cores and memory, by affinity and by the control groups it is in.

A container, a job of a cluster or a user of a shared machine often has less than the machine has. Whoever keeps more
cores busy than that is slowed; whoever takes more memory is killed, without a word.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path("/")
GROUPS = Path("sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryLimit:
    """What one control group may take and has left, in bytes.

    Args:
        most: that its processes may take.
        left: of it; files that the system only keeps for the next reader count as free.
    """

    most: int
    left: int


def cores() -> int:
    """How many cores this process may keep busy: those it may run on, and no more than its control group's quota."""
    return max(min([affinity(), *(math.ceil(quota) for quota in quotas(ROOT))]), 1)


def affinity() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use at most."""
    return min([int(_whole_machine().total), *(limit.most for limit in memory_limits(ROOT))])


def free_memory() -> int:
    """Bytes of memory that this process could take now."""
    available = int(_whole_machine().available)
    return max(min([available, *(limit.left for limit in memory_limits(ROOT))]), 0)


def _whole_machine() -> Any:  # Any: psutil has no types
    import psutil  # not with the package, which every command imports

    return psutil.virtual_memory()


def quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that the process's control group and those above it are given, where they are limited."""
    for group, version in _groups(root, "cpu"):
        if version == 2:
            quota, _, period = _text(group / "cpu.max").partition(" ")
        else:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if (most := _number(quota)) is not None and (turn := _number(period)):  # "max" and -1 are no limit
            yield most / turn


def memory_limits(root: Path) -> Iterator[MemoryLimit]:
    """What the process's control group and those above it may take, where they are limited."""
    for group, version in _groups(root, "memory"):
        limit, usage = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        most, used = _number(_text(group / f"memory.{limit}")), _number(_text(group / f"memory.{usage}"))
        if most is None or used is None:
            continue
        cached = "inactive_file" if version == 2 else "total_inactive_file"
        lines = (line.partition(" ") for line in _text(group / "memory.stat").splitlines())
        again = next((_number(value) for name, _, value in lines if name == cached), None)
        yield MemoryLimit(most, most - used + (again or 0))


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of the process's control group and those above it, each with the version of its files.

    At the top of version 2 there are no limits but in a container, which sees its own group there.
    """
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / GROUPS / (controller if controllers else "")
        for path in (PurePosixPath(name), *PurePosixPath(name).parents):
            yield top / str(path).lstrip("/"), 1 if controllers else 2


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
