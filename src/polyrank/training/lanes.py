"""Several passes at a time in threads of one process, over one base; the same results with any number of them.

A lane has modules and adapters of its own and shares all frozen weights with the others (`polyrank.hf.twin`), so what
another lane costs in memory is what one pass keeps. torch lets go of Python's lock while it computes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

import torch

from polyrank.core.parallel import computing
from polyrank.core.threads import one_heap
from polyrank.hf.resident import ResidentModel
from polyrank.hf.twin import twin
from polyrank.training.dropout import refuse_layer_drop
from polyrank.training.local import Local
from polyrank.training.profile import Clock
from polyrank.training.work import Engine, Outcome, Work, in_order

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """Threads that each have a twin of the base.

    With one lane everything is done by the caller's own thread, on the base itself.

    Args:
        resident: the base.
        count: how many; torch's threads are shared out among them.

    Attributes:
        residents: what they compute with.
    """

    def __init__(self, resident: ResidentModel, count: int = 1) -> None:
        self.count, self.threads = count, max(torch.get_num_threads() // count, 1)
        self.residents = [resident] if count == 1 else [twin(resident) for _ in range(count)]
        self._here = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, do: Callable[[int, Item], Result], items: Iterable[Item], *, halt: threading.Event | None = None
    ) -> Iterator[Result]:
        """``do(lane's number, item)`` of all items, in their order; a lane takes the next one when it is free.

        While a result is read, no lane begins anything new. What has begun when the reader stops is awaited; ``halt``
        is set meanwhile, for whoever can end sooner.
        """
        if self.count == 1:
            yield from (do(0, item) for item in items)
            return
        pool = self._started()
        rest, asked = iter(items), deque[Future[Result]]()

        def one(item: Item) -> Result:
            return do(self._here.number, item)

        try:
            while True:
                free = self.count - sum(not future.done() for future in asked)
                asked.extend(pool.submit(one, item) for item in islice(rest, free))
                if not asked:
                    return
                if asked[0].done():
                    yield asked.popleft().result()
                else:
                    wait([future for future in asked if not future.done()], return_when=FIRST_COMPLETED)
        finally:
            if halt is not None:
                halt.set()
            wait([future for future in asked if not future.cancel()])
            if halt is not None:
                halt.clear()

    def close(self) -> None:
        """End the threads; they are started again where something is asked after that."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            numbers = iter(range(self.count))

            def begin() -> None:
                self._here.number = next(numbers)

            one_heap()
            self._pool = computing(self.count, self.threads, begin)
        return self._pool


class SideBySide(Engine):
    """Engines of one kind, one to a lane.

    Works are put together into passes first, in a way that does not depend on the number of lanes.

    Args:
        lanes: where they compute.
        engines: one per lane, on its twin of the base.
        clock: where their time is booked, as shares of the time that passes here.

    Raises:
        UnbatchableError: the model leaves out layers at random.
    """

    def __init__(self, lanes: Lanes, engines: Sequence[Local], clock: Clock) -> None:
        self.lanes, self.engines, self.clock = lanes, engines, clock
        self._halt = threading.Event()
        refuse_layer_drop(engines[0].resident.model)
        for engine in engines:
            engine.alone, engine.halted = lanes.count == 1, self._halt

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works.

        Raises:
            UnbatchableError: the model draws random numbers that no client's stream can give.
        """
        passes = self.engines[0].passes(works)

        def train(lane: int, together: list[Work]) -> list[Outcome]:
            return list(self.engines[lane].together(together))

        def outcomes() -> Iterator[Outcome]:
            with self.clock.shares() as book, torch.random.fork_rng(devices=[]):
                for together in self.lanes.map(train, passes, halt=self._halt):
                    for engine in self.engines:
                        book(engine.clock.take())
                    yield from together

        yield from in_order(works, outcomes())

    def close(self) -> None:
        """End the threads."""
        self.lanes.close()
