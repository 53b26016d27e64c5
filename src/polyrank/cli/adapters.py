"""What an adapter is made of, module by module or in groups of modules that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polyrank.cli.console import out, percent, size, table

if TYPE_CHECKING:
    from polyrank.core.adapter import Adapter

MANY = 24
"""Modules of an adapter; more of them are shown in groups."""


def describe_adapter(adapter: Adapter, lowest: int) -> list[dict[str, Any]]:
    """One row per module: shape, rank, scale, norm of the delta, spectrum, bytes.

    ``energy_in_lowest`` is the share of the energy in the first ``lowest`` singular values; None for a delta of zero.
    """
    from polyrank.core import lowrank

    rows: list[dict[str, Any]] = []
    for name, factors in adapter.modules.items():
        singular = lowrank.singular_values(factors.a, factors.b) * abs(factors.scale)
        energy = singular.double().square()
        total = float(energy.sum())
        rows.append(
            {
                "module": name,
                "d_out": factors.d_out,
                "d_in": factors.d_in,
                "rank": factors.rank,
                "scale": factors.scale,
                "norm": float(singular.norm()),
                "effective_rank": lowrank.effective_rank(singular),
                "energy_in_lowest": float(energy[:lowest].sum()) / total if total > 0 else None,
                "singular_values": [float(value) for value in singular],
                "bytes": factors.a.nbytes + factors.b.nbytes,
            }
        )
    return rows


def by_layer(modules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:  # Any: plain JSON values
    """`describe_adapter`'s rows in groups of one last name and shape: how many, least and highest values, and bytes.

    ``energy_in_lowest`` is the mean over those that have energy; None where none has.
    """
    groups: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for row in modules:
        groups.setdefault((row["module"].rpartition(".")[2], row["d_out"], row["d_in"]), []).append(row)
    rows: list[dict[str, Any]] = []
    for (name, d_out, d_in), own in groups.items():
        shares = [row["energy_in_lowest"] for row in own if row["energy_in_lowest"] is not None]
        spans = {
            key: (min(row[key] for row in own), max(row[key] for row in own))
            for key in ("rank", "scale", "norm", "effective_rank")
        }
        share = sum(shares) / len(shares) if shares else None
        size_of = {"d_out": d_out, "d_in": d_in, "modules": len(own), "bytes": sum(row["bytes"] for row in own)}
        rows.append({"layer": name, **size_of, **spans, "energy_in_lowest": share})
    return rows


def _between(span: tuple[float, float], form: str) -> str:
    least, most = (format(value, form) for value in span)
    return least if least == most else f"{least} to {most}"


def print_adapter(adapter: Adapter, modules: list[dict[str, Any]], lowest: int, *, every: bool) -> None:
    """Print it; more than `MANY` modules in groups, unless each is asked for."""
    if every or len(modules) <= MANY:
        _print_modules(modules, lowest)
    else:
        _print_layers(modules, lowest)
    dense = sum(tensor.nbytes for tensor in adapter.dense.values())
    per_rank = sum(row["d_out"] + row["d_in"] for row in modules)
    out.print(
        f"\n{adapter.parameters:,} LoRA parameters ({per_rank:,} per rank), "
        f"{size(adapter.nbytes - dense)}; whole tensors: {', '.join(adapter.dense) or 'none'} ({size(dense)})",
        markup=False,
    )


def _print_layers(modules: list[dict[str, Any]], lowest: int) -> None:
    made = table(
        f"{len(modules)} modules, least to highest; --modules shows each",
        *("layers", "modules", "shape", "rank", "scale", "norm", "effective rank", f"energy in rank {lowest}", "bytes"),
    )
    for row in by_layer(modules):
        made.add_row(
            row["layer"],
            str(row["modules"]),
            f"{row['d_out']} x {row['d_in']}",
            _between(row["rank"], "d"),
            _between(row["scale"], "g"),
            _between(row["norm"], ".3g"),
            _between(row["effective_rank"], ".1f"),
            percent(row["energy_in_lowest"]),
            size(row["bytes"]),
        )
    out.print(made)


def _print_modules(modules: list[dict[str, Any]], lowest: int) -> None:
    share = f"energy in rank {lowest}"
    spectrum = ("effective rank", share, "largest singular values")
    made = table(None, "module", "shape", "rank", "scale", "norm", *spectrum, "bytes")
    for row in modules:
        made.add_row(
            row["module"],
            f"{row['d_out']} x {row['d_in']}",
            str(row["rank"]),
            f"{row['scale']:g}",
            f"{row['norm']:.4g}",
            f"{row['effective_rank']:.1f}",
            percent(row["energy_in_lowest"]),
            " ".join(f"{value:.3g}" for value in row["singular_values"][:4]),
            size(row["bytes"]),
        )
    out.print(made)
