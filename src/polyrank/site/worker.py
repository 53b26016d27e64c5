"""One site's work, whoever asks for it: the base and the data are loaded once, tasks come and updates go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from polyrank.aggregation import Download
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate
from polyrank.training.work import Job, Penalty

if TYPE_CHECKING:  # a client of a daemon imports this file, and transformers takes seconds
    from polyrank.config import Config
    from polyrank.federation.setup import Federation


OF_THE_BASE = ("model's weights", "vocabulary")
"""Digests (`polyrank.hf.digest`) by which two sides know whether they hold the same base."""


@dataclass(frozen=True, eq=False)
class Task:
    """One client's local training, as the server asks for it.

    Args:
        client: its name in the federation.
        round: the number of the round; 0 is the scoring round.
        adapter: what it starts from, at its own rank and scale.
        seed: of all that is drawn.
        base_change: a frozen update of the base beside the adapter.
        trains: which of ``"a"``, ``"b"`` and ``"head"`` are trained.
        penalty: HetLoRA's regulariser, where the client may be pruned.
    """

    client: str
    round: int
    adapter: Adapter
    seed: int
    base_change: Adapter | None = None
    trains: frozenset[str] = frozenset({"a", "b", "head"})
    penalty: Penalty | None = None


@dataclass(frozen=True)
class Facts:
    """What a site says of itself before the first round.

    Args:
        examples: that it trains on.
        labels: how many of them have each label, in the order of the labels.
        parameters: names and shapes of the modules with LoRA, as a check that both sides hold the same base.
        names: of the labels, as a check that both sides count them in the same order.
        base: digests of the base's files by what they are, as a check that both sides hold the same values; none where
            nobody knows.
    """

    examples: int
    labels: tuple[int, ...]
    parameters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    base: Mapping[str, str] = field(default_factory=dict)


class Worker(Protocol):
    """Trains one client at a time."""

    def facts(self, client: str) -> Facts:
        """What the client holds."""

    def train(self, task: Task) -> ClientUpdate:
        """The client's update; its weight is its number of examples."""

    def score(self, client: str, adapter: Adapter, base_change: Adapter | None = None) -> Mapping[str, float]:
        """Metrics of an adapter on the site's own test set."""


class LocalWorker(Worker):
    """A worker in this process.

    Args:
        federation: of `polyrank.federation.setup.build`, from the site's own configuration. With one client it is the
            site's own, whatever the server calls it; with several (a simulation) the task's name picks one.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation

    @classmethod
    def from_config(cls, config: Config) -> LocalWorker:
        """Load base and data.

        With one client there is nothing to share out and no rank to choose: all of the training data is that client's,
        whatever the sections say of partitions and rank policies, which are the server's.
        """
        from polyrank.federation.setup import build

        return cls(build(_alone(config) if config.federation.clients == 1 else config))

    def facts(self, client: str) -> Facts:
        """As `Worker`.

        Raises:
            ConfigError: there is no such client here.
        """
        own, federation = self._own(client), self.federation
        return Facts(
            len(federation.examples[own]),
            tuple(federation.label_counts(own)),
            dict(federation.resident.shapes),
            federation.labels,
            {name: federation.digests[name] for name in OF_THE_BASE if name in federation.digests},
        )

    def train(self, task: Task) -> ClientUpdate:
        """As `Worker`.

        Raises:
            AdapterError: the adapter does not fit the base.
            ConfigError: there is no such client here.
        """
        examples = self.federation.examples[self._own(task.client)]
        job = Job(
            task.client,
            task.adapter,
            examples,
            weight=float(len(examples)),
            seed=task.seed,
            base_change=task.base_change,
            trains=task.trains,
            penalty=task.penalty,
        )
        (update,) = self.federation.engine.train([job])
        return update

    def score(self, client: str, adapter: Adapter, base_change: Adapter | None = None) -> Mapping[str, float]:  # noqa: ARG002
        """As `Worker`."""
        from polyrank.federation.evaluation import score

        return score(self.federation, Download(adapter, base_change), self.federation.test)

    def _own(self, client: str) -> str:
        """The client as this federation calls it."""
        held = self.federation.clients
        if len(held) > 1 and client not in held:
            raise ConfigError(f"there is no client {client!r} here; this site holds {', '.join(held[:5])}, ...")
        return client if len(held) > 1 else held[0]


def _alone(config: Config) -> Config:
    data = config.data.model_copy(update={"partition": "iid"})
    rank = max(*config.ranks.levels, *config.ranks.by_name.values(), 1)
    ranks: dict[str, object] = {"policy": "fixed", "levels": [rank], "shares": None, "counts": None, "by_name": {}}
    return config.model_copy(update={"data": data, "ranks": config.ranks.model_copy(update=ranks)})
