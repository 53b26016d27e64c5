"""What a run tells of its progress, and to whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.server import Server

log = logging.getLogger(__name__)

LONGEST = 300
"""Characters of another library's message that are passed on."""
NOT_TRACKED = "not_tracked"
"""The key of summary.json under which it stands what listeners and trackers missed."""


class Listener:
    """Told what happens in a run; this one does nothing. Subclass it and override what is of interest.

    What a listener raises is logged once, and the run goes on without it. To stop a run from inside a listener, raise
    `KeyboardInterrupt`: what was saved stays, and the run can be resumed.
    """

    def __str__(self) -> str:
        """What it is called where it failed."""
        return type(self).__name__

    def on_start(self, server: Server, state: ServerState) -> None:
        """Everything is loaded; rounds follow."""

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        """The base was measured as it is, where the task asks for it; the line of round 0 in metrics.jsonl."""

    def on_client(self, stage: str, done: int, total: int) -> None:
        """A client has finished its part of ``"scoring"`` or of ``"training"``."""

    def on_saved(self, round_number: int) -> None:
        """The checkpoint of a round is on disk."""

    def on_time_left(self, seconds: float) -> None:
        """How long the run will go on, about, told before each `on_round`."""

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        """A round is over and saved; the line as written to metrics.jsonl."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """The run is over; what summary.json holds."""


@dataclass
class _Member:
    """One of several listeners, and what it was not told, because it raised."""

    listener: Listener
    error: str | None = None
    left_alone: bool = False
    rounds: list[int] = field(default_factory=list)
    others: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it calls itself."""
        return _said(self.listener)

    def tell(self, what: str | int, call: Callable[[Listener], None]) -> None:
        """Make the call, and note what was missed where it raises; an interrupt or an exit is let through.

        Args:
            what: a round's number, or what else is told.
            call: tells it.
        """
        if self.left_alone:
            return
        try:
            call(self.listener)
        except Exception as error:  # a tracker's network, quota or disk, or whatever a user's own listener raises
            if self.error is None:
                self.error = " ".join(f"{type(error).__name__}: {_said(error)}".split())[:LONGEST]
                log.warning("%s failed, and the run goes on: %s", self.name, self.error)
                log.debug("%s failed", self.name, exc_info=True)
            if isinstance(what, int):
                self.rounds.append(what)
            else:
                self.others[what] = None

    def missed(self) -> str | None:
        """For people; None if it was told everything."""
        if self.error is None:
            return None
        rounds = [f"round{'s' if len(self.rounds) > 1 else ''} {spans(self.rounds)}"] if self.rounds else []
        return f"{self.name}: {'everything' if self.left_alone else ', '.join([*rounds, *self.others])} ({self.error})"


class Listeners(Listener):
    """Several listeners as one, told in their order. One that raises keeps neither the others nor the run from theirs.

    A listener that fails at the start is left alone from then on; one that fails later is tried again each time.
    """

    def __init__(self, members: Iterable[Listener] = ()) -> None:
        self._members = [_Member(own) for member in members for own in _flat(member)]

    def on_start(self, server: Server, state: ServerState) -> None:
        for member in self._members:
            member.tell("the start", lambda listener: listener.on_start(server, state))
            member.left_alone = member.error is not None

    def on_client(self, stage: str, done: int, total: int) -> None:
        for member in self._members:
            member.tell("clients", lambda listener: listener.on_client(stage, done, total))

    def on_saved(self, round_number: int) -> None:
        for member in self._members:
            member.tell("checkpoints", lambda listener: listener.on_saved(round_number))

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        for member in self._members:
            member.tell(0, lambda listener: listener.on_untrained(metrics))

    def on_time_left(self, seconds: float) -> None:
        for member in self._members:
            member.tell("the time left", lambda listener: listener.on_time_left(seconds))

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        for member in self._members:
            member.tell(metrics["round"], lambda listener: listener.on_round(metrics))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """See `Listener`; each is also told what those before it missed, as ``not_tracked``."""
        for member in self._members:
            member.tell("the end", lambda listener: listener.on_end({**summary, **self.missed()}))

    def missed(self) -> dict[str, list[str]]:
        """``not_tracked``: a line for each listener that raised; nothing where none did."""
        lines = [line for member in self._members if (line := member.missed()) is not None]
        return {NOT_TRACKED: lines} if lines else {}


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours together.

    >>> spans([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def _said(thing: object) -> str:
    """Somebody else's object as text; its type where it raises at that, too."""
    try:
        return str(thing)
    except Exception:
        return type(thing).__name__


def _flat(listener: Listener) -> list[Listener]:
    return [member.listener for member in listener._members] if isinstance(listener, Listeners) else [listener]
