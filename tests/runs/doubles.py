"""What stands in for real training: engines whose result is known beforehand, and listeners that stop a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.federation.server import build
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listener, Listeners
from polyrank.runs.runner import Runner
from polyrank.training.work import Engine, Outcome, Work

Change = Callable[[Adapter], Adapter]


def plus(number: float) -> Change:
    """Every value of the adapter and the head, changed by a number."""
    return lambda adapter: adapter.map(lambda tensor: tensor + number)


def broken(value: float, tensor: str) -> Change:
    """One value of the tensor of this name becomes NaN or infinite."""

    def change(adapter: Adapter) -> Adapter:
        damaged = adapter.map(torch.clone)
        dict(damaged.tensors())[tensor].view(-1)[0] = value
        return damaged

    return change


@dataclass(frozen=True)
class Pretend(Engine):
    """Clients "train" by a known change; those that are not named add 0.125 to everything."""

    changes: Mapping[str, Change] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        for work in works:
            adapter = self.changes.get(work.client, plus(0.125))(work.adapter)
            weight = float(self.weights.get(work.client, 1))
            yield Outcome(work.client, adapter.parts(work.trains), weight, {"loss": 1.0, "steps": 1})


@dataclass(frozen=True)
class Absent(Pretend):
    """One client gives no update, and the engine says why."""

    who: str = "client-01"
    why: str = "its node does not answer"

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        for work in works:
            yield from [Outcome(work.client, problem=self.why)] if work.client == self.who else super().run([work])


def pretending(config: Config, folder: Path, engine: Engine) -> Runner:
    """A runner whose server is real but for its engine."""
    server = build(config)
    if isinstance(engine, Pretend):
        engine = replace(engine, weights=server.population.sizes)
    return Runner(replace(server, engine=engine), RunFolder(folder), Listeners())


@dataclass
class Stop(Listener):
    """Interrupts a run as Ctrl-C does: before a client of a round is through, or once a round was saved."""

    in_round: int | None = None
    after_round: int | None = None
    saved: int = 0

    def on_client(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002  # the listener's signature
        if stage == "training" and self.in_round == self.saved + 1 and done == 2:
            raise KeyboardInterrupt

    def on_saved(self, round_number: int) -> None:
        self.saved = round_number
        if self.after_round == round_number:
            raise KeyboardInterrupt
