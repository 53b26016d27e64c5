"""Independent pieces of linear algebra on all cores: modules of an adapter, one to a core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def over_cores(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``do`` of each item, in their order, as many at a time as torch has threads, each on one thread.

    A decomposition uses several cores badly, and rounds otherwise with more of them: this way the result is the same on
    any number of cores.
    """
    given, cores = list(items), torch.get_num_threads()
    if cores == 1 or not given:
        return [do(item) for item in given]
    try:
        with ThreadPoolExecutor(min(cores, len(given)), initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(do, given))
    finally:
        torch.set_num_threads(cores)  # of this thread, and of those to come
