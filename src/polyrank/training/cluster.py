"""A round's clients spread over the nodes of a Ray cluster; the same results as in processes of this machine.

Ray places the actors and carries bytes; each holds one base, on a GPU or on its share of a node's cores, and is given
passes as a worker process is. What dies with a node is computed elsewhere.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyrank.core import codec
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, WorkerError
from polyrank.training.profile import Clock
from polyrank.training.remote import Done, Setup, Trainer, answered, ask, passes_for, training
from polyrank.training.work import Engine, Outcome, Work, in_order

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Passes that an actor is given at a time: one that it computes, and one that is there when it is done."""
DEATHS = 3
"""Actors that may die over one pass before it is taken for the cause."""
PATIENCE = 600.0
"""Seconds in which some actor has to be ready, where there is none."""


@dataclass(frozen=True)
class Share:
    """What each actor has.

    Args:
        actors: how many there are to be.
        cores: of each.
        gpus: of each, 0 or 1.
    """

    actors: int
    cores: int
    gpus: int


def connect(address: str) -> bool:
    """Join the cluster; whether this process was not in one before.

    Args:
        address: ``ray`` for the one that ``RAY_ADDRESS`` names, or else one on this machine; or as `ray.init` takes it.

    Raises:
        ConfigError: Ray is not installed, or nothing answers there.
    """
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):  # the latter only silences a hint
        os.environ.setdefault(name, "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("training.cluster needs Ray: pip install 'polyrank[cluster]'") from None
    if ray.is_initialized():
        return False
    options = {} if address == "ray" else {"address": address}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # whatever Ray raises where it cannot
        raise ConfigError(f"training.cluster: no Ray cluster at {address}: {error}") from None
    return True


def share(asked: int | str) -> Share:
    """How the cluster is shared out.

    Args:
        asked: actors; ``auto`` for one per GPU, or one per node where there is none.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise ConfigError("training.cluster: no node of the Ray cluster has a core for this; start one: ray start")
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    actors = (gpus or len(nodes)) if isinstance(asked, str) else asked
    if gpus:
        return Share(actors, 1, 1)
    cores = min(int(node["CPU"]) for node in nodes)
    return Share(actors, max(cores // -(-actors // len(nodes)), 1), 0)


class Common:
    """Tensors of several clients, such as what all of a rank start from: put into the cluster once, not once a pass.

    Args:
        passes: of a round.
    """

    def __init__(self, passes: Sequence[Sequence[Work]]) -> None:
        import ray

        sent = [adapter for together in passes for work in together for adapter in _adapters(work)]
        often = Counter(id(tensor) for adapter in sent for _, tensor in adapter.tensors())
        self._names: dict[int, str] = {}
        self._pieces: list[Any] = []
        self._piece_of: dict[int, int] = {}
        for adapter in sent:
            new = {
                f"{len(self._pieces)}/{name}": tensor
                for name, tensor in adapter.tensors()
                if often[id(tensor)] > 1 and id(tensor) not in self._names
            }
            if new:
                self._names |= {id(tensor): name for name, tensor in new.items()}
                self._piece_of |= {id(tensor): len(self._pieces) for tensor in new.values()}
                self._pieces.append(ray.put(codec.to_bytes(new)))

    def asked(self, together: Sequence[Work]) -> list[Any]:
        """A pass as bytes, and the pieces that it needs beside it."""
        tensors = [tensor for work in together for adapter in _adapters(work) for _, tensor in adapter.tensors()]
        needed = sorted({self._piece_of[id(tensor)] for tensor in tensors if id(tensor) in self._piece_of})
        return [ask(together, self._names), *(self._pieces[number] for number in needed)]


def _adapters(work: Work) -> list[Adapter]:
    return [work.adapter, *([work.base_change] if work.base_change is not None else [])]


class Cluster(Engine):
    """Engines in the actors of a Ray cluster.

    Passes are those that processes of one machine are given; those of most steps are handed out first. An actor that
    dies is replaced, and what it was asked is asked of others; one that is late joins when it is there.

    Args:
        setup: of each.
        cut: how the cluster is shared out.
        clock: where the actors' time is booked, as shares of the time that passes here.
        leave: whether the cluster is left on `close`.

    Raises:
        WorkerError: no actor is there in time.
        PolyRankError: what an actor failed with.
    """

    def __init__(self, setup: Setup, cut: Share, clock: Clock, *, leave: bool) -> None:
        import ray

        self._cut, self._clock, self._leave = cut, clock, leave
        self._setup = replace(setup, threads=cut.cores)
        self._kept = ray.put(pickle.dumps(self._setup))  # once for a node, for trainers of our own
        self._actors: list[Any] = []  # Any: Ray's handles have no types
        self._starting: dict[Any, Any] = {}  # what is answered at the start -> the actor
        for _ in range(cut.actors):
            self._start()
        self._await()

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works.

        Raises:
            WorkerError: all actors died, or several over one pass.
        """
        yield from in_order(works, self._arriving(passes_for(works, self._setup)))

    def _arriving(self, passes: list[list[Work]]) -> Iterator[Outcome]:
        import ray

        common = Common(passes)
        waiting, deaths = deque(range(len(passes))), Counter[int]()
        running: dict[Any, tuple[Any, int]] = {}  # what will be answered -> the actor and its pass, the oldest first
        with self._clock.shares() as book:
            while waiting or running:
                if not self._actors:
                    self._await()
                while waiting and (free := self._idlest([actor for actor, _ in running.values()])) is not None:
                    number = waiting.popleft()
                    running[free.train.remote(*common.asked(passes[number]))] = free, number
                (ready, *_), _ = ray.wait([*running, *self._starting])
                if ready in self._starting:
                    self._welcome(ready)
                    continue
                actor, number = running[ready]
                done = self._received(ready, training(passes[number]))
                if done is None:
                    lost = {answer: own for answer, (other, own) in running.items() if other is actor}
                    for answer in lost:
                        del running[answer]
                    cause, *_ = again = list(lost.values())
                    deaths[cause] += 1
                    waiting.extendleft(reversed(again))
                    self._lose(actor, training(passes[cause]), deaths[cause])
                    continue
                del running[ready]
                book(done.seconds)
                yield from done.outcomes.values()

    def _idlest(self, busy: Sequence[Any]) -> Any:
        """An actor that has room for a pass, where there is one; those that have some stand in ``busy`` for each."""
        idlest = min(self._actors, key=busy.count, default=None)
        return idlest if busy.count(idlest) < IN_FLIGHT else None

    def _received(self, answer: Any, doing: str) -> Done | None:
        """What an actor answered; None where it died or its answer was lost."""
        import ray
        from ray import exceptions

        try:
            return answered(ray.get(answer))
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError) as error:
            log.warning("an actor died %s: %s", doing, str(error).strip().partition("\n")[0])
            return None
        except exceptions.RayTaskError as error:
            raise WorkerError(f"an actor failed {doing}:\n{error}") from None

    def _lose(self, actor: Any, doing: str, deaths: int) -> None:
        import ray

        self._actors.remove(actor)
        ray.kill(actor)
        if deaths >= DEATHS:
            raise WorkerError(
                f"{deaths} actors died, one after another, {doing}, perhaps for want of memory. Rounds that are saved "
                "are kept: continue with --resume, and fewer training.clients_per_pass"
            )
        self._start()

    def _start(self) -> None:
        import ray

        made: Any = ray.remote(Trainer)
        actor = made.options(num_cpus=self._cut.cores, num_gpus=self._cut.gpus, max_restarts=0).remote()
        self._starting[actor.start.remote(self._kept)] = actor

    def _welcome(self, answer: Any) -> None:
        """Take in an actor that has started, or start another where it died over it."""
        actor = self._starting.pop(answer)
        if self._received(answer, "while it started") is None:
            self._start()
        else:
            self._actors.append(actor)

    def _await(self) -> None:
        """Until some actor is there."""
        import ray

        end = time.monotonic() + PATIENCE
        while not self._actors:
            ready, _ = ray.wait(list(self._starting), timeout=max(end - time.monotonic(), 0))
            if not ready:
                raise WorkerError(
                    f"no actor was ready in {PATIENCE:.0f} s; each needs {self._cut.cores} core(s) and "
                    f"{self._cut.gpus} GPU(s) of one node, and the cluster has {ray.cluster_resources()}"
                )
            self._welcome(ready[0])

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in [*self._actors, *self._starting.values()]:
            ray.kill(actor)
        self._actors, self._starting = [], {}
        if self._leave:
            ray.shutdown()
