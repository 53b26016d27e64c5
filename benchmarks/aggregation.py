"""Speed and memory of the two kernels of aggregation: ``python -m benchmarks.aggregation``.

Prints Markdown tables and writes ``benchmarks/results/aggregation.json``. Four parts, ``--parts`` picks some:

- ``stream``: kernel 1 on a model of 7 billion parameters, updates read from disk one at a time;
- ``clients``: kernel 1's memory for ever more clients;
- ``product``: kernel 2 against the dense mean and its SVD (minutes);
- ``compress``: kernel 2's ``compress``, what it saves and what it costs.

Memory is the peak of the resident set over what the process held before the accumulator was made (imports and the
server's own adapter), each figure from a process of its own; Linux only. Temporary files are deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.machine import machine
from polyrank.aggregation import Levels, build
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "aggregation.json"
PLAIN = "plain torch"


@dataclass(frozen=True)
class Sizes:
    """How big everything is.

    Args:
        layers: with a q and a v projection each.
        width: these projections are square.
        ranks: of the updates, mixed evenly; the global rank is the highest.
        updates: how many are streamed.
        counts: numbers of clients for ``clients``.
        stack: ranks of the clients for ``product``.
        repeats: of the QR way in ``product``.
        compress_width: of the one layer of ``compress``.
        compress_counts: numbers of clients for ``compress``.
        methods: of kernel 1.
    """

    layers: int = 32
    width: int = 4096
    ranks: tuple[int, ...] = (4, 8, 16, 32, 64)
    updates: int = 100
    counts: tuple[int, ...] = (10, 1_000, 100_000)
    stack: tuple[int, ...] = (64, 32, 16, 16, 8, 8, 4, 4, 4, 4)
    repeats: int = 7
    compress_width: int = 256
    compress_counts: tuple[int, ...] = (10, 100, 1000)
    methods: tuple[str, ...] = ("replication", "owner_mean", "zero_padding", "tempered")

    @property
    def rank(self) -> int:
        return self.ranks[-1]

    @property
    def unit(self) -> int:
        """Bytes of one adapter of the highest rank in float32, as accumulators hold it."""
        return self.layers * 2 * self.rank * 2 * self.width * 4


FULL = Sizes()
TINY = Sizes(1, 16, (1, 2, 4), 6, (3, 30), (4, 2, 1, 1), 2, 16, (3, 30), ("replication",))


def random_adapter(layers: int, width: int, rank: int, dtype: torch.dtype, seed: int) -> Adapter:
    """Random factors for the q and v projections of every layer."""
    generator = torch.Generator().manual_seed(seed)

    def factor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    names = [f"layers.{i}.{name}_proj" for i in range(layers) for name in "qv"]
    return Adapter({name: Factors(factor(rank, width), factor(width, rank)) for name in names})


def order_of(sizes: Sizes) -> list[int]:
    """The ranks of the streamed updates, shuffled."""
    ranks = [sizes.ranks[i % len(sizes.ranks)] for i in range(sizes.updates)]
    random.Random(0).shuffle(ranks)
    return ranks


def read(folder: Path, rank: int, number: int) -> ClientUpdate:
    """One update from disk, as a server gets it."""
    tensors = load_file(folder / f"{rank}.safetensors")
    names = sorted({name[:-2] for name in tensors})
    modules = {name: Factors(tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in names}
    return ClientUpdate(f"client {number}", Adapter(modules), 1.0 + number % 7)


def start_of(layers: int, width: int, rank: int) -> ServerState:
    """A server whose adapter is float32 and resident."""
    return ServerState(0, random_adapter(layers, width, rank, torch.float32, 0), {}, {})


def levels_of(server: ServerState, ranks: Iterable[int]) -> Levels:
    """The same ranks in every module."""
    return dict.fromkeys(server.adapter.modules, tuple(sorted(set(ranks))))


# What runs in a process of its own -----------------------------------------------------------------------------------


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which the resident set was larger at its peak during ``work`` than before it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM back to VmRSS
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def fold(method: str, server: ServerState, levels: Levels, updates: Iterable[ClientUpdate]) -> None:
    """The server's part of a round; every update is dropped once it is added."""
    kernel = build(method).start(server, levels)
    sums = kernel.empty()
    for update in updates:
        sums = kernel.fold(sums, update)
        del update
    kernel.conclude(sums)


def stream_memory(sizes: Sizes, folder: Path, method: str, reading: bool) -> int:
    """Peak of a whole round, from an empty accumulator to the new adapter.

    Args:
        sizes: of the updates.
        folder: where they lie.
        method: name.
        reading: whether updates are read one by one, so that the one at hand counts; else they are there before.
    """
    server = start_of(sizes.layers, sizes.width, sizes.rank)
    there = {} if reading else {rank: read(folder, rank, 0).adapter.map(torch.clone) for rank in sizes.ranks}

    def updates() -> Iterator[ClientUpdate]:
        for number, rank in enumerate(order_of(sizes)):
            if reading:
                yield read(folder, rank, number)
            else:
                yield ClientUpdate(f"client {number}", there[rank], 1.0 + number % 7)

    return peak_of(lambda: fold(method, server, levels_of(server, sizes.ranks), updates()))


def clients_memory(method: str, count: int) -> int:
    """Peak of a round of ``count`` small updates."""
    server = start_of(1, 64, 8)
    small = [random_adapter(1, 64, 1 + i % 8, torch.float32, i) for i in range(16)]

    def updates(number: int) -> Iterator[ClientUpdate]:
        return (ClientUpdate(f"client {i}", small[i % len(small)], 1.0 + i % 7) for i in range(number))

    levels = levels_of(server, range(1, 9))
    fold(method, server, levels, updates(16))  # what torch allocates once
    return peak_of(lambda: fold(method, server, levels, updates(count)))


def child(task: str, *arguments: Any) -> int:  # Any: JSON values
    """One of the two above in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.aggregation", "--child", json.dumps([task, *arguments])]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(done.stdout)


def run_child(text: str) -> None:
    """The other side of `child`."""
    task, *rest = json.loads(text)
    if task == "stream":
        tiny, folder, method, reading = rest
        print(stream_memory(TINY if tiny else FULL, Path(folder), method, reading))
    else:
        print(clients_memory(*rest))


# The parts -----------------------------------------------------------------------------------------------------------


def stream(sizes: Sizes) -> dict[str, Any]:
    """Kernel 1: memory of each method, and time per update against plain torch, taken in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rank in sizes.ranks:
            adapter = random_adapter(sizes.layers, sizes.width, rank, torch.bfloat16, rank)
            save_file(dict(adapter.tensors()), folder / f"{rank}.safetensors")
        alone = {method: child("stream", sizes is TINY, name, method, False) for method in sizes.methods}
        peaks = {method: child("stream", sizes is TINY, name, method, True) for method in sizes.methods}
        seconds = stream_times(sizes, folder)
    plain = seconds.pop(PLAIN)
    ranks = order_of(sizes)
    return {
        "layers": sizes.layers,
        "width": sizes.width,
        "ranks": sizes.ranks,
        "updates": sizes.updates,
        "unit_bytes": sizes.unit,
        "plain_seconds_per_update": statistics.fmean(plain),
        "methods": {
            method: {
                "accumulator_bytes": alone[method],
                "accumulator_adapters": alone[method] / sizes.unit,
                "with_update_bytes": peaks[method],
                "with_update_adapters": peaks[method] / sizes.unit,
                "seconds_per_update": statistics.fmean(times),
                "times_plain": sum(times) / sum(plain),
                "times_plain_by_rank": {
                    rank: _of_rank(times, ranks, rank) / _of_rank(plain, ranks, rank) for rank in sizes.ranks
                },
            }
            for method, times in seconds.items()
        },
    }


def _of_rank(times: Sequence[float], ranks: Sequence[int], rank: int) -> float:
    return statistics.median(t for t, r in zip(times, ranks, strict=True) if r == rank)


def stream_times(sizes: Sizes, folder: Path) -> dict[str, list[float]]:
    """Seconds of every update: reading it and adding it, by each method and by plain torch, in turns.

    Plain torch is ``load_file`` and ``sum.add_(tensor)`` per key, into float32 sums of each rank's own shapes, so that
    nothing is strided.
    """
    server = start_of(sizes.layers, sizes.width, sizes.rank)
    kernels = {method: build(method).start(server, levels_of(server, sizes.ranks)) for method in sizes.methods}
    totals = {method: kernel.empty() for method, kernel in kernels.items()}
    sums = {
        rank: {
            key: torch.zeros_like(tensor, dtype=torch.float32)
            for key, tensor in load_file(folder / f"{rank}.safetensors").items()
        }
        for rank in sizes.ranks
    }

    def plain(rank: int) -> None:
        for key, tensor in load_file(folder / f"{rank}.safetensors").items():
            sums[rank][key].add_(tensor)

    seconds: dict[str, list[float]] = {name: [] for name in (PLAIN, *sizes.methods)}
    names = list(seconds)
    for number, rank in enumerate(order_of(sizes)):
        names.append(names.pop(0))
        for name in names:
            start = time.perf_counter()
            if name == PLAIN:
                plain(rank)
            else:
                totals[name] = kernels[name].fold(totals[name], read(folder, rank, number))
            seconds[name].append(time.perf_counter() - start)
    return seconds


def clients(sizes: Sizes) -> dict[str, Any]:
    """Kernel 1: peak bytes by method and number of clients."""
    return {method: {count: child("clients", method, count) for count in sizes.counts} for method in sizes.methods}


def product(sizes: Sizes) -> dict[str, Any]:
    """Kernel 2: mean of the products, SVD and cut, from the stacked factors and by way of the dense matrix."""
    generator = torch.Generator().manual_seed(0)
    weight = 1 / len(sizes.stack)
    terms = [
        (weight, torch.randn(r, sizes.width, generator=generator), torch.randn(sizes.width, r, generator=generator))
        for r in sizes.stack
    ]
    rank = max(sizes.stack)

    def thin() -> tuple[Tensor, Tensor]:
        return lowrank.truncate(*lowrank.stack(terms), rank)

    def dense() -> tuple[Tensor, Tensor]:
        mean = torch.zeros(sizes.width, sizes.width)
        for c, a, b in terms:
            mean.addmm_(b, a, alpha=c)
        u, s, vt = torch.linalg.svd(mean, full_matrices=False)
        return vt[:rank], u[:, :rank] * s[:rank]

    runs = [_timed(thin) for _ in range(sizes.repeats)]
    expected, dense_seconds = _timed(dense)
    runs += [_timed(thin) for _ in range(sizes.repeats)]
    seconds = statistics.median(run[1] for run in runs)
    wide = lowrank.truncate(*lowrank.stack((c, a.double(), b.double()) for c, a, b in terms), rank)
    return {
        "width": sizes.width,
        "stacked_rank": sum(sizes.stack),
        "rank": rank,
        "seconds": seconds,
        "dense_seconds": dense_seconds,
        "faster": dense_seconds / seconds,
        "difference": _difference(runs[-1][0], expected),
        "error": _difference(runs[-1][0], wide),
        "dense_error": _difference(expected, wide),
    }


def _timed(work: Callable[[], tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _difference(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """``|b a - b' a'|_F / |b' a'|_F``, from dense products: Gram matrices lose half of the digits."""
    right = expected[1].double() @ expected[0].double()
    left = found[1].double() @ found[0].double()
    return float(torch.linalg.norm(left - right) / torch.linalg.norm(right))


def compress(sizes: Sizes) -> list[dict[str, Any]]:
    """Kernel 2: stacked rank, time and error of flexlora with and without ``compress``.

    Every update is the first rows of one common low-rank update with singular values that fall as 1 / j, and noise of
    a tenth of each row: what clients of one task send.
    """
    width, rank = sizes.compress_width, sizes.rank
    server = start_of(1, width, rank)
    common = random_adapter(1, width, rank, torch.float32, 1)
    fall = 1 / torch.arange(1, rank + 1)

    def update(number: int) -> ClientUpdate:
        r = sizes.ranks[number % len(sizes.ranks)]
        noise = random_adapter(1, width, r, torch.float32, 2 + number)
        modules = {
            name: Factors(
                f.a[:r] + 0.1 * noise.modules[name].a, (f.b[:, :r] + 0.1 * noise.modules[name].b) * fall[:r], 1.0
            )
            for name, f in common.modules.items()
        }
        return ClientUpdate(f"client {number}", Adapter(modules), 1.0 + number % 7)

    rows: list[dict[str, Any]] = []
    for count in sizes.compress_counts:
        updates = [update(number) for number in range(count)]
        reference: Adapter | None = None
        for tolerance in (None, 1e-3, 1e-2, 0.1):
            kernel = build("flexlora", {"compress": tolerance}).start(server, levels_of(server, sizes.ranks))
            stacks = kernel.empty()
            highest, start = 0, time.perf_counter()
            for one in updates:
                stacks = kernel.fold(stacks, one)
                highest = max(highest, *(sum(t.factors.rank for t in ts) for ts in stacks.terms.values()))
            result = kernel.conclude(stacks).adapter
            seconds = time.perf_counter() - start
            reference = reference or result
            pairs = [(f, reference.modules[name]) for name, f in result.modules.items()]
            errors = [_difference((f.a, f.scale * f.b), (g.a, g.scale * g.b)) for f, g in pairs]
            rows.append(
                {"updates": count, "compress": tolerance, "highest_stacked_rank": highest}
                | {"bytes": highest * 2 * width * 4 * len(pairs), "seconds": seconds, "error": max(errors)}
            )
    return rows


PARTS: Mapping[str, Callable[[Sizes], Any]] = {
    "stream": stream,
    "clients": clients,
    "product": product,
    "compress": compress,
}


# What is printed -----------------------------------------------------------------------------------------------------


def tables(results: Mapping[str, Any]) -> str:
    """Markdown."""
    parts: list[str] = []
    if found := results.get("stream"):
        ranks = ", ".join(map(str, found["ranks"]))
        parts.append(
            f"Kernel 1: {found['updates']} updates of ranks {ranks}, q and v of {found['layers']} layers, "
            f"{found['width']} x {found['width']}, bfloat16 on disk. One adapter of the highest rank in float32 is "
            f"{_mib(found['unit_bytes'])}; plain torch reads and adds an update in "
            f"{1000 * found['plain_seconds_per_update']:.1f} ms.\n"
        )
        parts.append(
            "| method | peak of the accumulator | in adapters | with the update at hand, in adapters | "
            "time per update | times plain torch | of the slowest rank |\n|---|---|---|---|---|---|---|"
        )
        for name, row in found["methods"].items():
            parts.append(
                f"| {name} | {_mib(row['accumulator_bytes'])} | {row['accumulator_adapters']:.2f} | "
                f"{row['with_update_adapters']:.2f} | "
                f"{1000 * row['seconds_per_update']:.1f} ms | {row['times_plain']:.2f} | "
                f"{max(row['times_plain_by_rank'].values()):.2f} |"
            )
        parts.append("")
    if found := results.get("clients"):
        counts = next(iter(found.values()))
        parts.append(
            "Kernel 1: peak by number of clients (two layers of 64 x 64, ranks 1 to 8), over what a first round of "
            "16 clients left allocated.\n"
        )
        parts.append("| method | " + " | ".join(f"{count:,}" for count in map(int, counts)) + " |")
        parts.append("|---|" + "---|" * len(counts))
        parts += [
            f"| {name} | " + " | ".join(f"{peak / 1024:.0f} KiB" for peak in row.values()) + " |"
            for name, row in found.items()
        ]
        parts.append("")
    if found := results.get("product"):
        parts.append(
            f"Kernel 2: {found['width']} x {found['width']}, stacked rank {found['stacked_rank']}, cut to "
            f"{found['rank']}.\n\n| way | seconds | off from float64 |\n|---|---|---|\n"
            f"| QR of the stacks | {found['seconds']:.3f} | {found['error']:.1e} |\n"
            f"| dense mean and SVD | {found['dense_seconds']:.1f} | {found['dense_error']:.1e} |\n\n"
            f"{found['faster']:.0f} times faster; relative difference of the two {found['difference']:.1e}.\n"
        )
    if found := results.get("compress"):
        parts.append("Kernel 2 with `compress`: flexlora, two layers.\n")
        parts.append(
            "| updates | compress | highest stacked rank | memory of the stacks | seconds | error of the result |"
        )
        parts.append("|---|---|---|---|---|---|")
        parts += [
            f"| {row['updates']} | {'off' if row['compress'] is None else row['compress']} | "
            f"{row['highest_stacked_rank']} | {_mib(row['bytes'])} | {row['seconds']:.2f} | {row['error']:.1e} |"
            for row in found
        ]
    return "\n".join(parts)


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write; parts that are not measured now stay in the file as they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, to see that it works")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        run_child(chosen.child)
        return
    results: dict[str, Any] = {}
    if chosen.result.is_file():
        results = json.loads(chosen.result.read_text(encoding="utf-8"))["results"]
    for part in chosen.parts:
        measured = json.loads(json.dumps(PARTS[part](TINY if chosen.tiny else FULL)))
        print(tables({part: measured}), flush=True)
        results[part] = {"machine": machine(), "sizes": "tiny" if chosen.tiny else "full", "found": measured}
        chosen.result.parent.mkdir(parents=True, exist_ok=True)
        chosen.result.write_text(json.dumps({"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
