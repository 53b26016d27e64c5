"""``polyrank inspect``: what is in an adapter folder or a run folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.console import number, out, percent, print_json, size, table
from polyrank.errors import AdapterError

if TYPE_CHECKING:
    from polyrank.adapter import Adapter
    from polyrank.federation.run_folder import RunFolder


def inspect(
    path: Annotated[Path, typer.Argument(help="Adapter folder (PEFT) or run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show ranks, scales, norms, spectrum and bytes of an adapter, and for a run also how it went."""
    from polyrank.federation import checkpoint
    from polyrank.federation.run_folder import RunFolder
    from polyrank.hf import peft_folder

    if not path.exists():
        raise AdapterError(f"there is no {path}; expected an adapter folder or a run folder")
    run = RunFolder(path)
    described = _describe_run(run) if run.exists() else None
    adapter = checkpoint.load(run.checkpoint).adapter if described else peft_folder.read(path)
    modules = describe_adapter(adapter)
    if as_json:
        print_json(
            {"run": described, "modules": modules, "dense": {n: list(t.shape) for n, t in adapter.dense.items()}}
        )
        return
    if described:
        _print_run(described)
    _print_adapter(adapter, modules)


def describe_adapter(adapter: Adapter) -> list[dict[str, Any]]:
    """One row per module: shape, rank, scale, norm of the delta, effective rank, leading singular values, bytes."""
    from polyrank import lowrank

    rows: list[dict[str, Any]] = []
    for name, factors in adapter.modules.items():
        singular = lowrank.singular_values(factors.a, factors.b) * abs(factors.scale)
        rows.append(
            {
                "module": name,
                "d_out": factors.d_out,
                "d_in": factors.d_in,
                "rank": factors.rank,
                "scale": factors.scale,
                "norm": float(singular.norm()),
                "effective_rank": lowrank.effective_rank(singular),
                "singular_values": [float(value) for value in singular],
                "bytes": factors.a.nbytes + factors.b.nbytes,
            }
        )
    return rows


def _describe_run(run: RunFolder) -> dict[str, Any]:
    config, lines = run.read_config(), run.read_metrics()
    clients = run.read_json("clients")["clients"]
    return {
        "method": config.aggregation.method,
        "model": config.model.name,
        "data": config.data.train,
        "rounds": len(lines),
        "rounds_planned": config.federation.rounds,
        "clients_by_rank": dict(sorted(Counter(row["rank"] for row in clients.values()).items())),
        "last": lines[-1] if lines else None,
        "dropped": sum(len(line["dropped"]) for line in lines),
    }


def _print_run(run: dict[str, Any]) -> None:
    ranks = ", ".join(f"{count} at rank {rank}" for rank, count in run["clients_by_rank"].items())
    out.print(
        f"{run['method']} on {run['data']} with {run['model']}: {run['rounds']} of {run['rounds_planned']} rounds; "
        f"clients: {ranks}",
        markup=False,
        soft_wrap=True,
    )
    last = run["last"]
    if last and "test/accuracy" in last:
        out.print(
            f"last round: accuracy {percent(last['test/accuracy'])}, loss {number(last['test/loss'])}, "
            f"aggregation error {number(last.get('aggregation/error'))}",
            markup=False,
            soft_wrap=True,
        )
    if run["dropped"]:
        out.print(f"updates left out: {run['dropped']}; metrics.jsonl names them", markup=False)
    out.print()


def _print_adapter(adapter: Adapter, modules: list[dict[str, Any]]) -> None:
    made = table(None, "module", "shape", "rank", "scale", "norm", "effective rank", "largest singular values", "bytes")
    for row in modules:
        made.add_row(
            row["module"],
            f"{row['d_out']} x {row['d_in']}",
            str(row["rank"]),
            f"{row['scale']:g}",
            f"{row['norm']:.4g}",
            f"{row['effective_rank']:.1f}",
            " ".join(f"{value:.3g}" for value in row["singular_values"][:4]),
            size(row["bytes"]),
        )
    out.print(made)
    dense = sum(tensor.nbytes for tensor in adapter.dense.values())
    per_rank = sum(row["d_out"] + row["d_in"] for row in modules)
    out.print(
        f"\n{adapter.parameters:,} LoRA parameters ({per_rank:,} per rank), "
        f"{size(adapter.nbytes - dense)}; whole tensors: {', '.join(adapter.dense) or 'none'} ({size(dense)})",
        markup=False,
    )
