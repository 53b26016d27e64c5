"""What the server knows of somebody who trains for it: two questions, wherever the base and the data are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from polyrank.core.strict import Count
from polyrank.training.work import Outcome, Work

OF_THE_BASE = ("model's weights", "vocabulary", "chat template")
"""Digests (`polyrank.hf.digest`) by which two sides know whether they hold the same base."""


@dataclass(frozen=True)
class Facts:
    """What a participant says of itself before the first round; no value of its data.

    Args:
        examples: that it trains on.
        labels: how many of them have each label, in the order of the labels; nothing where the data have none.
        parameters: names and shapes of the modules with LoRA, as a check that both sides hold the same base.
        names: of the labels, as a check that both sides count them in the same order.
        base: digests of the base's files by what they are, as a check that both sides hold the same values; none where
            nobody knows.
        task: what is learned, with its options, as a check that both sides learn the same; empty where nobody says.
        left_out: reason -> how many of its rows are no examples.
    """

    examples: Count
    labels: tuple[Count, ...]
    parameters: Mapping[str, tuple[Count, Count]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    base: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    left_out: Mapping[str, Count] = field(default_factory=dict)


class Participant(Protocol):
    """Trains for one client at a time: a `Site` in this process, or a daemon's client."""

    def facts(self, client: str) -> Facts:
        """What the client holds.

        Raises:
            ConfigError: there is no such client.
        """

    def do(self, work: Work) -> Outcome:
        """The client's work; the outcome's weight is its number of examples.

        Raises:
            AdapterError: what it was sent does not fit the base.
            ConfigError: there is no such client.
        """
