"""What a control group leaves to this process, in both versions of the files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from polyrank.core import limits
from polyrank.core.limits import MemoryLimit

GIB = 2**30


def laid_out(files: dict[str, str], root: Path) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("files", "quotas"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/\n"}, []),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, []),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
            },
            [2.5, 1.0],
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, [1.5]),  # in a container
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n2:memory:/y\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
    ],
)
def test_quotas(files: dict[str, str], quotas: list[float], tmp_path: Path):
    """Of the control group and all above it; a share of a core is one core."""
    assert list(limits.quotas(laid_out(files, tmp_path))) == quotas


def test_a_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "affinity", lambda: 8)
    monkeypatch.setattr(limits, "quotas", lambda _: iter([2.5, 6.0]))
    assert limits.cores() == 3
    monkeypatch.setattr(limits, "quotas", lambda _: iter([0.2]))
    assert limits.cores() == 1


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, []),
        (  # files that are kept in memory for the next reader give way
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "8000\n",
                "sys/fs/cgroup/a/b/memory.current": "7000\n",
                "sys/fs/cgroup/a/b/memory.stat": "anon 3000\nfile 4000\ninactive_file 2500\nactive_file 1500\n",
                "sys/fs/cgroup/a/memory.max": "9000\n",
                "sys/fs/cgroup/a/memory.current": "8500\n",
            },
            [MemoryLimit(8000, 3500), MemoryLimit(9000, 500)],
        ),
        (  # in a container
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "6000\n",
                "sys/fs/cgroup/memory.current": "0\n",
            },
            [MemoryLimit(6000, 6000)],
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/job\n3:cpu:/other\n0::/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "4000\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n",
            },
            [MemoryLimit(4000, 1500), MemoryLimit(2**63 - 4096, 2**63 - 9096)],
        ),
    ],
)
def test_memory_limits(files: dict[str, str], found: list[MemoryLimit], tmp_path: Path):
    assert list(limits.memory_limits(laid_out(files, tmp_path))) == found


def test_what_is_free_is_what_the_narrowest_limit_leaves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=50 * GIB))
    monkeypatch.setattr(limits, "memory_limits", lambda _: iter([]))
    assert (limits.memory(), limits.free_memory()) == (64 * GIB, 50 * GIB)
    monkeypatch.setattr(limits, "memory_limits", lambda _: iter([MemoryLimit(8 * GIB, 3 * GIB)]))
    assert (limits.memory(), limits.free_memory()) == (8 * GIB, 3 * GIB)
    monkeypatch.setattr(limits, "memory_limits", lambda _: iter([MemoryLimit(8 * GIB, -1)]))
    assert limits.free_memory() == 0


def test_this_machine_has_some_memory():
    assert 0 < limits.free_memory() <= limits.memory() <= psutil.virtual_memory().total
