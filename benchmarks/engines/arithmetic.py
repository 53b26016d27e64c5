"""``arithmetic``: how much of the machine's rate reaches the model.

Floating point operations of the frozen linear layers per second of local training, as a share of the rate at which a
plain chain of the same matrix products runs; and the share of that time that is no forward or backward pass. For the
quickstart's backbone, DistilBERT's shape (random weights) and, with ``--minilm`` and ``--ag-news``, MiniLM, each in
float32 and bfloat16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engines.work import Shape, prepared
from polyrank.hf.speed.packed_linear import pack
from polyrank.training.batched.engine import Batched
from polyrank.training.profile import Clock
from polyrank.training.tuning.forms import DTYPES
from polyrank.training.work import Engine, Work

REPEATS = 3
TIMED_CHAINS = 30


def operations(engine: Engine, works: Sequence[Work], model: nn.Module) -> tuple[float, dict[tuple[int, int], int]]:
    """Floating point operations of the frozen linear layers in these works, and rows per (d_in, d_out) of one pass."""
    total, rows = 0.0, {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal total
        (x,) = inputs
        directions = 1 + x.requires_grad
        assert isinstance(layer, nn.Linear)
        size = x.numel() // x.shape[-1]
        total += 2.0 * size * layer.in_features * layer.out_features * directions
        rows[layer.in_features, layer.out_features] = max(size, rows.get((layer.in_features, layer.out_features), 0))

    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and not m.weight.requires_grad]
    handles = [layer.register_forward_hook(count) for layer in layers]
    list(engine.run(works))
    for handle in handles:
        handle.remove()
    return total, rows


def chain_rate(rows: Mapping[tuple[int, int], int], dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of the same products alone, forward and backward, in the form that layers use."""
    layers = nn.ModuleList(nn.Linear(d_in, d_out) for d_in, d_out in rows).to(device, dtype).requires_grad_(False)
    pack(layers)
    inputs = [
        torch.randn(size, d_in, device=device, dtype=dtype, requires_grad=True) for (d_in, _), size in rows.items()
    ]
    done = sum(4.0 * size * d_in * d_out for (d_in, d_out), size in rows.items())
    best = float("inf")
    for _ in range(TIMED_CHAINS):
        start = time.perf_counter()
        for layer, x in zip(layers, inputs, strict=True):
            y = layer(x)
            y.backward(y.detach())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return done / best


def measure(shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """One row per shape and precision."""
    table = []
    for shape in shapes:
        for precision, dtype in DTYPES.items():
            site, works = prepared(shape, f"training.precision={precision}", "training.workers=1")
            clock = Clock(site.resident.device, running=True)
            width = min(site.plan.clients_per_pass, len(works))
            engine = Batched(site.resident, site.task, site.examples, site.config.training, width, clock=clock)
            done, rows = operations(engine, works, site.resident.model)
            shares, rates = [], []
            for _ in range(REPEATS):
                clock.take()
                start = time.perf_counter()
                list(engine.run(works))
                seconds = time.perf_counter() - start
                shares.append(1 - clock.take()["arithmetic"] / seconds)
                rates.append(done / seconds)
            chain = chain_rate(rows, dtype, site.resident.device)
            table.append(
                {
                    "model": shape.name,
                    "precision": precision,
                    "clients_per_pass": width,
                    "chain_gflops": chain / 1e9,
                    "round_gflops": max(rates) / 1e9,
                    "share": max(rates) / chain,
                    "beyond_arithmetic": statistics.median(shares),
                }
            )
            print(table[-1], flush=True)
    return table


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | precision | clients per pass | products alone, GFLOP/s | in training | share | not arithmetic |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {r['model']} | {r['precision']} | {r['clients_per_pass']} | {r['chain_gflops']:.0f} "
        f"| {r['round_gflops']:.0f} | {r['share']:.0%} | {r['beyond_arithmetic']:.1%} |"
        for r in rows
    ]
    return "\n".join(lines)
