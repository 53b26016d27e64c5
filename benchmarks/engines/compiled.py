"""``compile``: whether ``torch.compile`` of the transformer's layers would pay within a run.

The layers of each encoder are compiled for any shape (``dynamic=True``), and the same clients are trained as before;
the first time holds the compilation. It needs a C++ compiler. PolyRank does not compile, for what this shows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.engines.work import Shape, prepared
from polyrank.training.batched.engine import Batched
from polyrank.training.work import Job

REPEATS = 3


def measure(shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """One row per shape, float32."""
    table = []
    for shape in shapes:
        federation, jobs = prepared(shape, "training.precision=float32", "training.workers=1")
        engine = Batched(federation.resident, federation.task, federation.config.training, 1)
        list(engine.train(jobs))
        plain = min(_seconds(engine, jobs) for _ in range(REPEATS))
        torch.compiler.reset()
        for layer in layers(federation.resident.model):
            layer.compile(dynamic=True)
        first = _seconds(engine, jobs)
        best = min(_seconds(engine, jobs) for _ in range(REPEATS))
        table.append({"model": shape.name, "plain": plain, "compiled": best, "first": first})
        print(table[-1], flush=True)
    return table


def layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of the transformer."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return list(max(stacks, key=len)) if stacks else []


def _seconds(engine: Batched, jobs: Sequence[Job]) -> float:
    start = time.perf_counter()
    list(engine.train(jobs))
    return time.perf_counter() - start


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| model | as it is, s | compiled, s | compiled, first time, s |", "|---|---|---|---|"]
    lines += [f"| {r['model']} | {r['plain']:.2f} | {r['compiled']:.2f} | {r['first']:.1f} |" for r in rows]
    return "\n".join(lines)
