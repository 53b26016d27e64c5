"""What a node's process keeps between messages: one participant, for all nodes that it cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from polyrank.federation.participant import Participant

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


@dataclass
class Held:
    """A participant, and for whom it is.

    Args:
        app: of the ClientApp that made it.
        text: the federation's configuration.
        node: the node's, as the participant has looked at it.
        participant: that is held.
    """

    app: str
    text: str
    node: Watched
    participant: Participant


_held: list[Held] = []


def participant(app: str, make: Callable[[str, NodeConfig], Participant], text: str, node: NodeConfig) -> Participant:
    """The participant that this process holds, if it is for this app, configuration and node; else a new one instead.

    In a simulation a process serves one node after another. They share the participant as far as it was made from, and
    has since looked at, what their configurations have in common: with ``partition-id`` alone they all do. Only one is
    kept: a base is too large for two. It is kept by this module and not by the app, since Ray sends each message with
    a copy of the app.

    Args:
        app: a name of the app's own.
        make: a participant for a configuration (TOML) and a node's.
        text: the federation's configuration.
        node: the node's.
    """
    if not _held or (_held[0].app, _held[0].text) != (app, text) or not _held[0].node.agrees(node):
        _held.clear()  # before the next one is made: both need not fit
        watched = Watched(node)
        _held.append(Held(app, text, watched, make(text, watched)))
    return _held[0].participant
