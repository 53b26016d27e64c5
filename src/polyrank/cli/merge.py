"""``polyrank merge``: adapters of any ranks -> one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import completing
from polyrank.cli.console import out, percent, print_json, size, table
from polyrank.cli.options import Json, Portable
from polyrank.core.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.merging.result import Loss, Merged


def merge(
    adapters: Annotated[list[Path], typer.Argument(help="PEFT adapter folders.")],
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist or be empty.")],
    method: Annotated[
        str, typer.Option("--method", help="See polyrank methods.", autocompletion=completing.methods)
    ] = "flexlora",
    options: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the method.")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", metavar="W,W", help="One per adapter.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank of every module.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = None,
    allow_different_bases: Annotated[
        bool, typer.Option("--allow-different-bases", help="Merge though the named base models differ.")
    ] = False,
    portable: Portable = None,
    as_json: Json = False,
) -> None:
    """Merge PEFT adapter folders of any ranks into one, and show what the method lost."""
    from polyrank.merging.merge import merge as run
    from polyrank.merging.result import check_free

    check_free(folder)
    merged = run(
        adapters,
        None if weights is None else _numbers(weights),
        method=method,
        options=dict(_pair(text) for text in options or []),
        rank=rank,
        dtype=dtype,
        allow_different_bases=allow_different_bases,
    )
    given = merged.given(portable)
    merged.save(folder, portable=portable)
    if as_json:
        print_json(_described(merged))
        return
    _print(merged)
    written = sum(path.stat().st_size for path in folder.iterdir())
    what = f"{len(adapters)} adapters merged by {merged.method}, rank {_span(_ranks(merged))}"
    out.print(f"\n{what}: {folder} ({size(written)})", markup=False, soft_wrap=True)
    if given is not merged.adapter:
        out.print(f"filled up to one rank for servers: --max-lora-rank {given.rank}", markup=False, soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {text}: expected numbers with commas between them, for example 2,1,1") from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--option {text}: expected key=value, for example gamma=0.5")
    return key.strip(), value.strip()


def _ranks(merged: Merged) -> list[int]:
    return [factors.rank for factors in merged.adapter.modules.values()]


def _print(merged: Merged) -> None:
    made = table("aggregation error", "layers", "modules", "input ranks", "rank", "error")
    for group, names in merged.groups().items():
        before = [rank for name in names for rank in merged.modules[name].ranks]
        after = [merged.adapter.modules[name].rank for name in names]
        made.add_row(group, str(len(names)), _span(before), _span(after), _error(_together(merged, names)))
    every = list(merged.adapter.modules)
    before = [rank for name in every for rank in merged.modules[name].ranks]
    made.add_row("all", str(len(every)), _span(before), _span(_ranks(merged)), _error(_together(merged, every)))
    out.print(made)


def _together(merged: Merged, names: list[str]) -> Loss:
    from polyrank.merging.result import Loss

    return Loss.together(merged.losses[name] for name in names)


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _error(loss: Loss) -> str:
    return percent(loss.error) if math.isfinite(loss.error) else "-"


def _described(merged: Merged) -> dict[str, Any]:  # Any: plain JSON values
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "method": merged.method,
        "error": finite(merged.error),
        "groups": {group: finite(_together(merged, names).error) for group, names in merged.groups().items()},
        "modules": {
            name: {
                "input_ranks": list(merged.modules[name].ranks),
                "rank": factors.rank,
                "scale": factors.scale,
                "error": finite(merged.losses[name].error),
            }
            for name, factors in merged.adapter.modules.items()
        },
        "dense": {name: list(tensor.shape) for name, tensor in merged.adapter.dense.items()},
        "lacking": {name: list(missing) for name, missing in merged.lacking.items()},
    }
