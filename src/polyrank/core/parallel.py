"""Threads that compute: each with a number of torch's threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")


def computing(count: int, threads: int, begin: Callable[[], None] = lambda: None) -> ThreadPoolExecutor:
    """A pool of threads, all of them started; the caller's own number of torch's threads stays.

    Args:
        count: of the pool's threads.
        threads: with which torch computes in each.
        begin: called in each, once.
    """
    before, all_here = torch.get_num_threads(), threading.Barrier(count)

    def start() -> None:
        torch.get_num_threads()  # the first question to torch in a thread takes over the number of the process
        torch.set_num_threads(threads)
        all_here.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="computing", initializer=begin)
    for future in [pool.submit(start) for _ in range(count)]:
        future.result()
    torch.set_num_threads(before)  # of this thread, and what threads to come begin with
    return pool


def over_cores(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``do`` of each item, in their order, as many at a time as torch has threads, each on one thread.

    For independent pieces of linear algebra, such as modules of an adapter: a decomposition uses several cores badly,
    and rounds otherwise with more of them. This way the result is the same on any number of cores.
    """
    given, cores = list(items), torch.get_num_threads()
    if cores == 1 or not given:
        return [do(item) for item in given]
    with computing(min(cores, len(given)), 1) as pool:
        return list(pool.map(do, given))


def by_name(do: Callable[[Item], Result], items: Mapping[Key, Item]) -> dict[Key, Result]:
    """`over_cores` of what stands under names."""
    return dict(zip(items, over_cores(do, items.values()), strict=True))
