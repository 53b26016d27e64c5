"""What a round of ever more clients costs a server, and what a tree of edge servers changes.

``python -m benchmarks.tree`` prints Markdown tables and writes ``benchmarks/results/tree.json``. Updates are synthetic,
of LoRA on all linear layers of DistilBERT with its classification head, in float32; one client in ten has the high
rank. Measured, each in a process of its own with one thread (Linux only):

- ``fold``: one server reads so many updates from bytes, checks and adds them: seconds, memory, bytes in;
- ``root``: the root of a tree reads the messages of so many edges;
- ``same``: how far a tree's result is from the flat one.

Seconds are those of the processor, so that other work on the machine does not count.

``plan`` is arithmetic on these: an edge has clients / edges updates to fold (as long as so many took, or else by the
largest number that was folded), the root one message per edge; edges work at the same time; a server's network card
takes what comes in at the given rate, not at the same time as it computes.
Memory is the peak of the resident set over what the process held before: imports, the global adapter, the clients'
ranks, and the updates' bytes, which stand for the network.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.aggregation import peak_of
from benchmarks.machine import machine
from polyrank.aggregation import build
from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.tree import Node

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "tree.json"
DRAWN = 8
"""Different updates per rank; a federation's clients take them in turns."""


@dataclass(frozen=True)
class Sizes:
    """How big everything is.

    Args:
        layers: of the model.
        width: of its hidden states; the inner layer of the MLP is four times as wide.
        classes: of the head.
        ranks: low and high; every tenth client has the high one.
        counts: numbers of clients whose updates are folded.
        edges: numbers of edge servers.
        clients: to plan for.
        methods: of kernel 1.
        gigabits: per second, of a server's network card.
    """

    layers: int = 6
    width: int = 768
    classes: int = 4
    ranks: tuple[int, int] = (5, 20)
    counts: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    edges: tuple[int, ...] = (10, 100)
    clients: int = 100_000
    methods: tuple[str, ...] = ("replication", "owner_mean")
    gigabits: float = 10.0


FULL = Sizes()
TINY = Sizes(1, 8, 2, (1, 3), (10, 40), (2, 4), 1_000, ("replication",))


def adapter(sizes: Sizes, rank: int, seed: int) -> Adapter:
    """Random factors for the six linear layers of each block, and a head of two layers."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = sizes.width, 4 * sizes.width

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {f"attention.{name}": (width, width) for name in ("q_lin", "k_lin", "v_lin", "out_lin")}
    shapes |= {"ffn.lin1": (inner, width), "ffn.lin2": (width, inner)}
    modules = {
        f"transformer.layer.{i}.{name}": Factors(normal(rank, d_in), normal(d_out, rank), 2.0)
        for i in range(sizes.layers)
        for name, (d_out, d_in) in shapes.items()
    }
    head = {"pre_classifier": (width, width), "classifier": (sizes.classes, width)}
    dense = {f"{name}.weight": normal(*shape) for name, shape in head.items()}
    return Adapter(modules, dense | {f"{name}.bias": normal(shape[0]) for name, shape in head.items()})


def server(sizes: Sizes, clients: int) -> ServerState:
    """Who is in the federation, and the global adapter; every tenth client has the high rank."""
    ranks = {f"c{i:06d}": sizes.ranks[i % 10 == 9] for i in range(clients)}
    return ServerState(0, adapter(sizes, sizes.ranks[1], 0), ranks, dict.fromkeys(ranks, 2.0))


class Received:
    """Updates as bytes, as they come from the network."""

    def __init__(self, sizes: Sizes) -> None:
        self._pieces: dict[int, list[bytes]] = {}
        for rank in sizes.ranks:
            drawn = [adapter(sizes, rank, 1 + i) for i in range(DRAWN)]
            pieces = [codec.dumps(one) for one in drawn]
            self._pieces[rank] = pieces

    def bytes_of(self, number: int, rank: int) -> bytes:
        """What the client of this number sends."""
        return self._pieces[rank][number % DRAWN]

    def update(self, client: str, rank: int) -> ClientUpdate:
        """The same, read."""
        number = int(client[1:])
        received = codec.loads(Adapter, self.bytes_of(number, rank))
        return ClientUpdate(client, received, 1.0 + number % 7)


# What runs in a process of its own -----------------------------------------------------------------------------------


def warm_up(method: str) -> None:
    """What is loaded and allocated once, by a small adapter."""
    state, received = server(TINY, 2), Received(TINY)
    node = Node(state, build(method), state.ranks)
    for client, rank in state.ranks.items():
        node.add(received.update(client, rank))
    root = Node(state, build(method), state.ranks)
    root.fold(node.pack())
    root.finish()


def peak_from_scratch(work: Callable[[], object]) -> int:
    """As `peak_of`, with what was freed before given back to the system, so that it is not simply used again."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return peak_of(work)


def measure_fold(sizes: Sizes, method: str, count: int) -> dict[str, Any]:
    """A server that folds ``count`` updates; and the message that it would send to a server above."""
    state, received = server(sizes, count), Received(sizes)
    warm_up(method)
    seconds: list[float] = []
    nodes: list[Node] = []

    def work() -> None:
        start = time.process_time()
        node = Node(state, build(method), state.ranks)
        nodes.append(node)
        for client, rank in state.ranks.items():
            node.add(received.update(client, rank))
        seconds.append(time.process_time() - start)

    memory = peak_from_scratch(work)
    (node,) = nodes
    start = time.process_time()
    message = node.pack()
    packing = time.process_time() - start
    start = time.process_time()
    used = len(node.finish().used)
    finishing = time.process_time() - start
    assert used == count
    arrived = sum(len(received.bytes_of(i, rank)) for i, rank in enumerate(state.ranks.values()))
    return {
        **{"clients": count, "seconds": seconds[0], "memory_bytes": memory, "bytes_in": arrived},
        **{"message_bytes": len(message), "pack_seconds": packing, "finish_seconds": finishing},
    }


def measure_root(sizes: Sizes, method: str, edges: int) -> dict[str, Any]:
    """A root that folds the messages of ``edges`` servers, of ten clients each: sums are as large for any number."""
    state, received = server(sizes, 10 * edges), Received(sizes)
    clients, messages = list(state.ranks.items()), []
    for i in range(edges):
        edge = Node(state, build(method), state.ranks)
        for client, rank in clients[10 * i : 10 * i + 10]:
            edge.add(received.update(client, rank))
        messages.append(edge.pack())
    seconds: list[float] = []
    roots: list[Node] = []

    def work() -> None:
        start = time.process_time()
        root = Node(state, build(method), state.ranks)
        roots.append(root)
        for message in messages:
            root.fold(message)
        root.finish()
        seconds.append(time.process_time() - start)

    memory = peak_from_scratch(work)
    assert len(roots[0].used) == 10 * edges
    return {"edges": edges, "seconds": seconds[0], "memory_bytes": memory, "bytes_in": sum(map(len, messages))}


def measure_same(sizes: Sizes, method: str, edges: int) -> dict[str, Any]:
    """The largest difference of any value between a tree of uneven edges and the flat result, beside the values."""
    state, received = server(sizes, 20 * edges), Received(sizes)
    flat, root = Node(state, build(method), state.ranks), Node(state, build(method), state.ranks)
    parts = [Node(state, build(method), state.ranks) for _ in range(edges)]
    for i, (client, rank) in enumerate(state.ranks.items()):
        flat.add(received.update(client, rank))
        parts[i * i % edges].add(received.update(client, rank))
    for part in parts:
        root.fold(part.pack())
    one, other = dict(root.finish().state.adapter.tensors()), dict(flat.finish().state.adapter.tensors())
    gap = max(float((one[name] - other[name]).abs().max()) for name in other)
    return {
        "clients": 20 * edges,
        "edges": edges,
        "difference": gap,
        "largest": max(float(t.abs().max()) for t in other.values()),
    }


TASKS = {"fold": measure_fold, "root": measure_root, "same": measure_same}


def child(task: str, tiny: bool, method: str, number: int) -> dict[str, Any]:
    """One of these in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.tree", "--child", json.dumps([task, tiny, method, number])]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# The plan ------------------------------------------------------------------------------------------------------------


def plan(sizes: Sizes, fold: Sequence[dict[str, Any]], roots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bytes, memory and seconds of a round for flat and for each number of edges, from what was measured.

    A client is sent as much as it sends; an edge is sent the whole global adapter.
    """
    most = max(fold, key=lambda row: row["clients"])
    size = most["bytes_in"] / most["clients"]

    def seconds(clients: float) -> float:
        measured = next((row for row in fold if row["clients"] == clients), most)
        return float(measured["seconds"] * clients / measured["clients"])

    rate = sizes.gigabits * 1e9 / 8
    whole = len(codec.to_bytes(dict(adapter(sizes, sizes.ranks[1], 0).tensors())))
    flat = {
        **{"edges": 0, "clients_per_server": sizes.clients, "memory_bytes_root": most["memory_bytes"]},
        **{"bytes_up_root": sizes.clients * size, "bytes_down_root": sizes.clients * size},
        "compute_seconds": seconds(sizes.clients) + most["finish_seconds"],
        "network_seconds": 2 * sizes.clients * size / rate,
    }
    rows: list[dict[str, Any]] = [flat]
    for row in roots:
        clients = sizes.clients / row["edges"]
        up, down = row["bytes_in"], row["edges"] * whole
        rows.append(
            {
                **{"edges": row["edges"], "clients_per_server": clients, "memory_bytes_root": row["memory_bytes"]},
                **{"bytes_up_root": up, "bytes_down_root": down},
                **{"bytes_up_edge": clients * size, "memory_bytes_edge": most["memory_bytes"]},
                "compute_seconds": seconds(clients) + most["pack_seconds"] + row["seconds"],
                "network_seconds": (2 * clients * size + up + down) / rate,
            }
        )
    return rows


def megabytes(value: float) -> str:
    """Decimal, as networks are sold."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def fold_table(results: dict[str, Any]) -> str:
    """Markdown: one server, ever more clients."""
    lines = [
        "| method | clients | bytes in | seconds | ms per update | memory | message upwards |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, rows in results["fold"].items():
        for row in rows:
            per = 1e3 * row["seconds"] / row["clients"]
            cells = megabytes(row["bytes_in"]), f"{row['seconds']:.2f}", f"{per:.2f}"
            sizes = megabytes(row["memory_bytes"]), megabytes(row["message_bytes"])
            lines.append("| " + " | ".join([method, f"{row['clients']:,}", *cells, *sizes]) + " |")
    return "\n".join(lines)


def plan_table(results: dict[str, Any]) -> str:
    """Markdown: flat and trees."""
    lines = [
        "| method | edges | updates, each | up, edge | up, root | down, root | memory, root | computing | network |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, rows in results["plan"].items():
        for row in rows:
            up, down, memory = (megabytes(row[f"{key}_root"]) for key in ("bytes_up", "bytes_down", "memory_bytes"))
            cells = (
                *(method, str(row["edges"]) if row["edges"] else "flat", f"{row['clients_per_server']:,.0f}"),
                *(megabytes(row["bytes_up_edge"]) if row["edges"] else "-", up, down, memory),
                *(f"{row[key]:.1f} s" for key in ("compute_seconds", "network_seconds")),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    """Everything, for people."""
    same = [
        f"{method}: a tree of {row['edges']} edges differs from flat by {row['difference']:.1e} at most, where values "
        f"go up to {row['largest']:.1f}"
        for method, row in results["same"].items()
    ]
    clients = f"{results['sizes']['clients']:,} clients in a round, {results['sizes']['gigabits']:g} Gbit/s per server"
    return "\n\n".join([fold_table(results), clients, plan_table(results), *same])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, to see that it works")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        task, tiny, method, number = json.loads(chosen.child)
        print(json.dumps(TASKS[task](TINY if tiny else FULL, method, number)))
        return
    sizes = TINY if chosen.tiny else FULL
    results: dict[str, Any] = {"fold": {}, "root": {}, "same": {}, "plan": {}, "sizes": asdict(sizes)}
    for method in sizes.methods:
        counts = sizes.counts if method == sizes.methods[0] else sizes.counts[:-1]
        results["same"][method] = child("same", chosen.tiny, method, sizes.edges[0])
        results["root"][method] = [child("root", chosen.tiny, method, edges) for edges in sizes.edges]
        results["fold"][method] = [child("fold", chosen.tiny, method, count) for count in counts]
        results["plan"][method] = plan(sizes, results["fold"][method], results["root"][method])
    print(tables(results))
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
