"""``width``: one client after another against several in one pass, alternating, and what the planner makes of it.

On a GPU the pass of all is also recorded as a CUDA graph (``training.cuda_graphs``).

Ten clients of one step each, of 64, 512 and 4096 tokens, on DistilBERT's shape and a decoder of a billion parameters
with random weights. On a CPU the decoder's 4096 tokens are left out: a round would take a quarter of an hour.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines.arithmetic import chain_rate, operations
from benchmarks.engines.work import Shape, decoder, distilbert, prepared, random_texts
from polyrank.training.batched.engine import Batched
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.forms import DTYPES
from polyrank.training.work import Engine

CLIENTS = 10
TEXTS = {64: 2, 512: 8, 4096: 64}
"""Tokens of a client's step -> the texts they are in."""
REPEATS = {"cpu": 2, "cuda": 5}
"""On a GPU, where a pass is recorded when it is met for the second time."""
LONG_SECONDS = 30.0
"""Rounds that take so long are timed once: warming up is small beside them."""


def shapes(work: Path) -> list[tuple[Shape, int]]:
    """Every model and number of tokens that this machine can be asked for."""
    on_gpu = torch.cuda.is_available()
    found = []
    for name, folder in (("DistilBERT's shape, 6 x 768", distilbert), ("decoder, 16 x 2048", decoder)):
        for tokens, texts in TEXTS.items():
            if folder is decoder and tokens > 512 and not on_gpu:
                continue
            length = tokens // texts
            file = random_texts(work / f"texts-{texts}-{length}.csv", (CLIENTS + 2) * texts, length)
            size = (f"data.size={texts}", f"training.batch_size={texts}", f"data.max_tokens={length}")
            few = (f"data.train={file}", "data.test_share=0.1", f"federation.clients={CLIENTS}")
            own = (f"model.name={folder(work)}", "federation.participation=1.0", *size, *few)
            found.append((Shape(name, own, CLIENTS), tokens))
    return found


def measure(chosen: Sequence[tuple[Shape, int]]) -> list[dict[str, Any]]:
    """One row per shape, number of tokens and engine."""
    table = []
    for shape, tokens in chosen:
        site, works = prepared(shape, "training.workers=1")
        options, resident = site.config.training, site.resident
        own = (resident, site.task, site.examples, options)
        width = site.plan.clients_per_pass
        engines: dict[str, Engine] = {
            "sequential": Sequential(*own),
            f"batched {len(works)}": Batched(*own, len(works)),
            f"planner's choice: {width}": Batched(*own, width),
        }
        if resident.device.type == "cuda":
            graphs = options.model_copy(update={"cuda_graphs": True})
            engines[f"CUDA graph of {len(works)}"] = Batched(*own[:-1], graphs, len(works))
        best, peak = dict.fromkeys(engines, float("inf")), dict.fromkeys(engines, 0.0)
        done, rows = operations(engines["sequential"], works, resident.model)
        for _ in range(REPEATS[resident.device.type]):
            for name, engine in engines.items():
                if best[name] > LONG_SECONDS and best[name] < float("inf"):
                    continue
                _forget_peak(resident.device)
                start = time.perf_counter()
                list(engine.run(works))  # ends with copies to the CPU, so a GPU is done then
                best[name] = min(best[name], time.perf_counter() - start)
                peak[name] = max(peak[name], _peak_mib(resident.device))
        chain = chain_rate(rows, DTYPES[options.precision], resident.device)
        for name, seconds in best.items():
            table.append(
                {
                    **{"model": shape.name, "tokens": tokens, "engine": name, "precision": options.precision},
                    **{"device": str(resident.device), "seconds_per_round": seconds, "peak_mib": peak[name]},
                    **{"tokens_per_second": len(works) * tokens / seconds, "share": done / seconds / chain},
                }
            )
            print(table[-1], flush=True)
    return table


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib(device: torch.device) -> float:
    """Since it was forgotten, of the whole process on a CPU (Linux) and of torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| model | tokens per step | device | engine | seconds per round | tokens per second | peak MiB | share |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    lines += [
        f"| {r['model']} | {r['tokens']} | {r['device']}, {r['precision']} | {r['engine']} "
        f"| {r['seconds_per_round']:.2f} | {r['tokens_per_second']:.0f} | {r['peak_mib']:.0f} | {r['share']:.0%} |"
        for r in rows
    ]
    return "\n".join(lines)
