"""What a node's process keeps between messages: one worker, for all nodes whose configurations it cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from polyrank.site.worker import Worker

Value: TypeAlias = bool | float | int | str
NodeConfig: TypeAlias = Mapping[str, Value]


class Watched(Mapping[str, Value]):
    """A node's configuration that knows which of its keys were looked at.

    Args:
        config: of the node.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = dict(config)
        self._read: set[str] = set()
        self._all = False

    def __getitem__(self, key: str) -> Value:
        self._read.add(key)
        return self._config[key]

    def __contains__(self, key: object) -> bool:
        self._read.add(str(key))
        return key in self._config

    def __iter__(self) -> Iterator[str]:
        self._all = True
        return iter(self._config)

    def __len__(self) -> int:
        self._all = True
        return len(self._config)

    def agrees(self, other: NodeConfig) -> bool:
        """Whether another node's configuration says the same wherever this one was looked at."""
        if self._all:
            return self._config == dict(other)
        return all(self._config.get(key) == other.get(key) for key in self._read)


class Held:
    """The worker of a process. Only one is kept: a base is too large for two.

    In a simulation a process serves one node after another. They share the worker as far as it was made from, and has
    since looked at, what their configurations have in common: with ``partition-id`` alone they all do.

    Args:
        make: a worker for the federation's configuration (TOML) and the node's.
    """

    def __init__(self, make: Callable[[str, NodeConfig], Worker]) -> None:
        self._make = make
        self._held: tuple[str, Watched, Worker] | None = None

    def worker(self, text: str, node: NodeConfig) -> Worker:
        """The one that is held, if it is for this configuration and node; else a new one in its place."""
        if self._held is None or self._held[0] != text or not self._held[1].agrees(node):
            self._held = None  # before the next one is made: both need not fit
            watched = Watched(node)
            self._held = text, watched, self._make(text, watched)
        return self._held[2]
