"""A base, data and an engine in one place: what trains, and what measures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.federation.participant import OF_THE_BASE, Facts, Participant
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.evaluate import by_kind, evaluate, tallies
from polyrank.training.lanes import Lanes
from polyrank.training.profile import Clock
from polyrank.training.tuning.planner import Plan
from polyrank.training.work import Engine, Outcome, Work

Scores = Mapping[str, float]
"""Name of a metric -> value, in the task's order."""


@dataclass(frozen=True, eq=False)
class Site(Participant):
    """One base, the examples of the clients that are here, and what trains them.

    With one client it is the site's own, whatever the server calls it; with several, as in a run on one machine or a
    simulation, names tell them apart.

    Args:
        config: resolved, as far as the base and the training go.
        task: what is learned.
        resident: the one base model.
        outputs: names of what the model's head gives, such as the classes.
        labels: names of the data's labels; none where there are none.
        examples: client -> its own.
        test: held-out examples.
        validation: the balanced set by which a server scores clients, where its rank policy or its method asks for one.
        engine: how clients are trained.
        lanes: with which it is measured.
        plan: why in this way.
        clock: where time is booked.
        digests: what the data and the model held when they were read.
        left_out: client -> reason -> how many of its rows are no examples.
    """

    config: Config
    task: Task
    resident: ResidentModel
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    examples: Mapping[str, Examples]
    test: Examples
    validation: Examples | None
    engine: Engine
    lanes: Lanes
    plan: Plan
    clock: Clock
    digests: Mapping[str, str]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def facts(self, client: str) -> Facts:
        """See `Participant`."""
        own = self._own(client)
        held = self.examples[own]
        return Facts(
            len(held),
            tuple(held.kind_counts(len(self.labels))),
            dict(self.resident.shapes),
            self.labels,
            {name: self.digests[name] for name in OF_THE_BASE if name in self.digests},
            str(self.task),
            dict(self.left_out.get(own, {})),
        )

    def do(self, work: Work) -> Outcome:
        """See `Participant`; what it starts from is scored on the site's test set, where that is asked for."""
        own = self._own(work.client)
        scores = self.measured(work.adapter, work.base_change, self.test) if work.scored else {}
        start = time.perf_counter()
        (outcome,) = self.engine.run([replace(work, client=own)])
        return replace(outcome, client=work.client, scores=scores, seconds=time.perf_counter() - start)

    def measured(self, adapter: Adapter, base_change: Adapter | None, examples: Examples) -> Scores:
        """Metrics of an adapter with its head and a base change on one set."""
        size = self.config.evaluation.batch_size
        found = tallies(self.lanes, self.task, [examples], size, lambda base: base.install(adapter, base_change))
        return self.task.measured(found[0])

    def measured_each(self, adapters: Iterable[Adapter | None], examples: Examples) -> Iterator[Scores | None]:
        """Metrics of adapters with their heads on one set, each by one lane; None for None."""

        def score(lane: int, adapter: Adapter | None) -> Scores | None:
            if adapter is None:
                return None
            resident = self.lanes.residents[lane]
            resident.install(adapter)
            return self.task.measured(evaluate(resident, self.task, examples, self.config.evaluation.batch_size))

        return self.lanes.map(score, adapters)

    def by_kind(self, adapter: Adapter, base_change: Adapter | None) -> dict[str, Any]:  # Any: numbers, and kind -> one
        """Metrics of the test set; see `polyrank.training.evaluate.by_kind`."""
        return by_kind(
            *(self.lanes, self.task, self.test, self.labels, self.config.evaluation.batch_size),
            install=lambda base: base.install(adapter, base_change),
        )

    def constant(self, *, hidden: bool = False) -> Scores:
        """Metrics of the best answer to the test set that looks at no text.

        Args:
            hidden: whether it must not be made of the training data.
        """
        learned = [] if hidden else [own for _, own in sorted(self.examples.items())]
        return self.task.constant(self.test, learned=learned, words=self.resident.words)

    def _own(self, client: str) -> str:
        """The client as it is called here."""
        if len(self.examples) > 1 and client not in self.examples:
            known = ", ".join(sorted(self.examples)[:5]) + ", ..." * (len(self.examples) > 5)
            raise ConfigError(f"there is no client {client!r} here; this site holds {known}")
        return client if len(self.examples) > 1 else next(iter(self.examples))
