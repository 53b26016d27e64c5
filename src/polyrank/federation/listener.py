"""What a run tells of its progress, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.federation.setup import Federation
    from polyrank.state import ServerState


class Listener:
    """Told what happens in a run; this one does nothing. Subclass it and override what is of interest."""

    def on_start(self, federation: Federation, state: ServerState) -> None:
        """Everything is loaded; rounds follow."""

    def on_client(self, stage: str, done: int, total: int) -> None:
        """A client has finished its part of ``"scoring"`` or of ``"training"``."""

    def on_saved(self, round_number: int) -> None:
        """The checkpoint of a round is on disk."""

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        """A round is over and saved; the line as written to metrics.jsonl."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """The run is over; what summary.json holds."""


@dataclass(frozen=True)
class Listeners(Listener):
    """Several listeners as one, told in their order."""

    members: Sequence[Listener]

    def on_start(self, federation: Federation, state: ServerState) -> None:
        for member in self.members:
            member.on_start(federation, state)

    def on_client(self, stage: str, done: int, total: int) -> None:
        for member in self.members:
            member.on_client(stage, done, total)

    def on_saved(self, round_number: int) -> None:
        for member in self.members:
            member.on_saved(round_number)

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        for member in self.members:
            member.on_round(metrics)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        for member in self.members:
            member.on_end(summary)
