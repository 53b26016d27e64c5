"""What a Ray cluster costs a pass, and a round of 1,000 clients on 64 GPUs: ``python -m benchmarks.cluster``.

Measured here, in turn, the shortest of each: the same passes by an engine in this process and by one actor with as many
threads (``pass``); and adapters of a 7-billion model on their way through an actor and back, as bytes (``way``). Needs
the extra ``cluster``. ``plan`` is arithmetic on these, on ``aggregation.json`` (an update added to the sums on one
core) and on ``engines-h100.json`` (tokens a second of a smaller decoder, by the ratio of sizes; no card is needed).
Prints Markdown tables and writes ``benchmarks/results/cluster.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from polyrank import config as configuration
from polyrank import ranks
from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.federation.loading import load
from polyrank.federation.population import initial, read
from polyrank.tasks import settled
from polyrank.training.cluster import Cluster, Share, connect
from polyrank.training.profile import Clock
from polyrank.training.remote import Pass, Setup, passes_for
from polyrank.training.work import Work

RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "cluster.json"
LINEAR = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)} | {
    "gate": (11008, 4096),
    "up": (11008, 4096),
    "down": (4096, 11008),
}
"""Of a layer of a 7-billion Llama, ``(d_out, d_in)``."""
LAYERS = 32
SMALLER = "decoder, 16 x 2048"
"""The model of ``engines-h100.json`` whose rate is taken, and how many times the weights of this one are its own."""
TIMES = 6.74 / 1.24
RANKS = (4, 8, 16, 32, 64)
SETTINGS = (
    *("training.precision=float32", "training.attention=eager", "training.engine=batched", "training.lanes=1"),
    *("training.clients_per_pass=2", "training.workers=1", "ranks.policy=random", "federation.participation=0.2"),
)


@dataclass(frozen=True)
class Round:
    """A round that is planned.

    Args:
        clients: in it.
        gpus: one actor each.
        together: clients to a pass.
        tokens: that each client learns from.
        per_node: GPUs of a node.
        gigabits: of the server's network card.
    """

    clients: int = 1000
    gpus: int = 64
    together: int = 8
    tokens: int = 50 * 512
    per_node: int = 8
    gigabits: float = 100.0


def passes(repeats: int) -> dict[str, Any]:
    """Seconds of a round's passes here and through an actor."""
    torch.set_num_threads(1)
    config = settled(configuration.load(None, SETTINGS))
    site = load(config, read(config, ranks.policy(config.ranks)))
    training = site.config.training
    setup = Setup(
        *(site.config.model, site.task, site.examples, site.outputs, config.federation.seed, "cpu", training),
        threads=1,
        profile=False,
    )
    adapter = initial(site.resident, site.config)
    works = [Work(client, 1, adapter, seed) for seed, client in enumerate(sorted(site.examples)[:20])]
    count = len(passes_for(works, setup))
    engines = {"here": site.engine, "actor": Cluster(setup, Share(1, 1, 0), Clock(), leave=False)}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            for _ in engine.run(works):
                pass
            seconds[name].append(time.perf_counter() - start)
    for engine in engines.values():
        engine.close()
    best = {name: min(own[1:]) / count for name, own in seconds.items()}
    sent = len(codec.dumps(Pass({work.client: work for work in works[:2]})))
    return {"passes": count, "seconds": seconds, "per_pass": best, "bytes": sent}


def way(layers: int, repeats: int) -> dict[str, Any]:
    """Seconds of an adapter to an actor and back, packed and unpacked at both ends, and of packing and unpacking."""
    import ray

    @ray.remote(num_cpus=1)
    class Echo:
        def there_and_back(self, data: bytes) -> bytes:
            return codec.dumps(codec.loads(Pass, data))

    modules = {
        f"{layer}.{name}": Factors(torch.randn(16, d_in), torch.randn(d_out, 16))
        for layer in range(layers)
        for name, (d_out, d_in) in LINEAR.items()
    }
    echo: Any = Echo.remote()
    asked = Pass({"c": Work("c", 1, Adapter(modules), 0)})
    size, seconds = len(codec.dumps(asked)), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        codec.loads(Pass, ray.get(echo.there_and_back.remote(codec.dumps(asked))))
        seconds.append(time.perf_counter() - start)
    ray.kill(echo)
    data = codec.dumps(asked)
    packing = min(_timed(lambda: codec.dumps(asked)) for _ in range(repeats + 1))
    unpacking = min(_timed(lambda: codec.loads(Pass, data)) for _ in range(repeats + 1))
    return {"bytes": size, "seconds": seconds, "packing": packing, "unpacking": unpacking}


def _timed(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def adapter_bytes(rank: float) -> float:
    """Of an adapter of the 7-billion model on all linear layers, float32."""
    return 4 * rank * LAYERS * sum(d_out + d_in for d_out, d_in in LINEAR.values())


def plan(asked: Round, found: Mapping[str, Any]) -> dict[str, float]:
    """A round by its pieces. Computing, the network and the server's one thread overlap, so the longest of them counts.

    What clients start from is packed once for each rank and fetched once by each node; what they trained comes from
    each of them.
    """
    stream = json.loads((RESULTS / "aggregation.json").read_text(encoding="utf-8"))["results"]["stream"]["found"]
    rows = json.loads((RESULTS / "engines-h100.json").read_text(encoding="utf-8"))["width"]["rows"]
    rate = max(row["tokens_per_second"] for row in rows if row["model"] == SMALLER) / TIMES
    size = adapter_bytes(sum(RANKS) / len(RANKS))
    per_pass = asked.together * asked.tokens / rate
    turns = -(-asked.clients // (asked.together * asked.gpus))
    overhead = found["pass"]["per_pass"]["actor"] - found["pass"]["per_pass"]["here"]
    down, up = len(RANKS) * size * asked.gpus / asked.per_node, asked.clients * size
    unit = stream["unit_bytes"]
    added = asked.clients * stream["methods"]["replication"]["seconds_per_update"] * size / unit
    return {
        "adapter_bytes": size,
        "seconds_per_pass": per_pass,
        "computing": turns * (per_pass + max(overhead, 0.0)),
        "down": down,
        "up": up,
        "network": max(down, up) / (asked.gigabits * 1e9 / 8),
        "packing": len(RANKS) * size * found["way"]["packing"] / found["way"]["bytes"],
        "unpacking": up * found["way"]["unpacking"] / found["way"]["bytes"],
        "adding": added,
        "memory": 3 * adapter_bytes(max(RANKS)) + len(RANKS) * size + asked.gpus * asked.together * size,
    }


def tables(found: Mapping[str, Any]) -> str:
    """Markdown."""
    own, on_way, planned, asked = found["pass"], found["way"], found["plan"], found["round"]
    mega, giga = 1e6, 1e9
    lines = [
        "| a pass of two clients | |",
        "|---|---|",
        f"| in this process | {own['per_pass']['here']:.3f} s |",
        f"| by an actor | {own['per_pass']['actor']:.3f} s |",
        f"| an adapter of {on_way['bytes'] / mega:.0f} MB to an actor and back | {min(on_way['seconds'][1:]):.2f} s |",
        "",
        f"| {asked['clients']} clients of {asked['tokens']:,} tokens, a 7-billion model, {asked['gpus']} GPUs | |",
        "|---|---|",
        f"| adapter, mean of ranks {', '.join(map(str, RANKS))} | {planned['adapter_bytes'] / mega:.0f} MB |",
        f"| a pass of {asked['together']} clients | {planned['seconds_per_pass']:.0f} s |",
        f"| all passes | {planned['computing']:.0f} s |",
        f"| bytes down, up | {planned['down'] / giga:.0f}, {planned['up'] / giga:.0f} GB |",
        f"| network, {asked['gigabits']:.0f} Gbit/s each way | {planned['network']:.0f} s |",
        f"| packing, unpacking, adding up (replication), on one core | {planned['packing']:.0f}, "
        f"{planned['unpacking']:.0f}, {planned['adding']:.0f} s |",
        f"| memory of the server, a pass of each GPU waiting to be added | {planned['memory'] / giga:.0f} GB |",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4, help="of the adapter that is sent; it has 32 in all")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    connect("local")
    found: dict[str, Any] = {"pass": passes(chosen.repeats), "way": way(chosen.layers, chosen.repeats)}
    asked = Round()
    found |= {"round": asdict(asked), "plan": plan(asked, found), "machine": machine()}
    chosen.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
