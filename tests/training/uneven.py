"""Clients of unequal sizes and ranks, and what an engine on one thread makes of their works: what others must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polyrank.core.adapter import Adapter
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training.remote import Setup
from polyrank.training.work import Outcome, Penalty, Work
from tests.models import examples, random_adapter

SIZES = (3, 9, 6, 9, 5, 12, 1)
"""Examples per client: passes are not in the order of the clients, and the last is of one."""


def held(model: ResidentModel, sizes: Sequence[int] = SIZES) -> dict[str, Examples]:
    return {f"c{i}": examples(model, size, seed=i) for i, size in enumerate(sizes)}


def works(model: ResidentModel, count: int = len(SIZES)) -> list[Work]:
    """Unequal ranks; base changes, which some of a pass share, and the regulariser are there too."""
    change = Adapter(random_adapter(model, 9, rank=2, uneven=False).modules)
    made = []
    for i in range(count):
        rank = 1 + i % 3
        adapter = random_adapter(model, i, rank=rank, uneven=False)
        extra = {"base_change": change if i % 2 else None, "penalty": Penalty(1, 0.1) if rank > 1 else None}
        made.append(Work(f"c{i}", 1, adapter, i, **extra))
    return made


def on_one_thread(setup: Setup, asked: Sequence[Work]) -> list[Outcome]:
    """What one process, this one, makes of the works on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outcomes = list(setup.engine().run(asked))
    torch.set_num_threads(threads)
    return outcomes


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def same(found: Sequence[Outcome], expected: Sequence[Outcome]) -> bool:
    """Bit for bit, in one order."""
    return [(one.client, one.weight, one.metrics) for one in found] == [
        (one.client, one.weight, one.metrics) for one in expected
    ] and all(equal(one.trained, other.trained) for one, other in zip(found, expected, strict=True))
