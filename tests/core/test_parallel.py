from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from polyrank.core.parallel import over_cores


@pytest.fixture(params=[1, 2, 4])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order_and_of_one_thread_each(cores: int):
    seen: list[int] = []

    def late(item: int) -> tuple[int, int]:
        time.sleep(0.01 * (3 - item % 3))
        seen.append(item)
        return item, torch.get_num_threads()

    assert over_cores(late, iter(range(9))) == [(item, 1) for item in range(9)]
    assert (seen == sorted(seen)) == (cores == 1)
    assert over_cores(late, []) == []
    assert torch.get_num_threads() == cores


def test_an_error_comes_out(cores: int):
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        over_cores(fail, range(5))
    assert torch.get_num_threads() == cores


def test_as_many_at_a_time_as_there_are_cores(cores: int):
    inside, most, lock = [0], [0], threading.Lock()

    def count(_: int) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        with lock:
            inside[0] -= 1

    over_cores(count, range(8))
    assert most[0] == cores
