"""What a process uses over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import psutil


@dataclass
class Use:
    """Memory and open files of a process, now and then.

    Attributes:
        at: where it was looked at: rounds, or seconds.
        memory: bytes resident there.
        files: open there.
    """

    at: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self, at: float, process: psutil.Process) -> None:
        """Once.

        Raises:
            psutil.Error: the process is no longer there.
        """
        memory, files = process.memory_info().rss, process.num_fds()
        self.at.append(at)
        self.memory.append(memory)
        self.files.append(files)

    @property
    def half(self) -> int:
        """Where the second half begins."""
        return len(self.at) // 2

    @property
    def slope(self) -> float:
        """Bytes for each unit of ``at``, by least squares over the second half."""
        return float(np.polyfit(self.at[self.half :], self.memory[self.half :], 1)[0])

    @property
    def start_half_end(self) -> list[int]:
        """Bytes."""
        return [self.memory[at] for at in (0, self.half, -1)]
