"""``polyrank plan``: what a federation will send and hold, before it starts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from polyrank.cli.console import out, print_json, size, table
from polyrank.cli.options import Json, Overrides
from polyrank.core.errors import ConfigError
from polyrank.core.text import read_size

if TYPE_CHECKING:
    from polyrank.federation.planning.footprint import Footprint, Measured
    from polyrank.federation.planning.forecast import Forecast, Span
    from polyrank.federation.planning.outlook import Outlook


def plan(  # noqa: PLR0917  # Typer's way to declare options
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    overrides: Overrides = None,
    uplink: Annotated[
        list[str] | None,
        typer.Option("--uplink", metavar="SIZE", help="The highest rank of a client that can send so much a round."),
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option("--memory", metavar="SIZE", help="The highest rank of a client that has so much memory."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Load model and data, and measure a step's memory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show parameters, bytes and memory for each rank, and in all, without loading weights."""
    budgets = _budgets(uplink or [], memory or [])
    from polyrank import config as configuration
    from polyrank.federation.planning.outlook import outlook

    ahead = outlook(configuration.load(config, overrides or []))
    counts = count(ahead, measure=measure)
    found, held, seen = counts.found, counts.held, counts.seen
    fitting = _fitting(ahead, found, held, seen, budgets) if budgets else None
    if as_json:
        print_json(_described(ahead, counts) | ({"ranks": fitting} if fitting else {}))
        return
    show(ahead, counts)
    if fitting:
        import tomlkit

        said = "# activations are not counted: --measure does\n" if memory and seen is None else ""
        out.print(f"\n{said}{tomlkit.dumps({'ranks': fitting})}", end="", markup=False, soft_wrap=True)


class Counts(NamedTuple):
    """What a federation will send and hold.

    Args:
        found: what is sent.
        held: the base's part of a client's memory.
        seen: what a step was seen to keep, where that was measured.
        needed: rank -> bytes of weights, gradients and moments.
    """

    found: Forecast
    held: Footprint
    seen: Measured | None
    needed: dict[int, int]


def count(ahead: Outlook, *, measure: bool = False) -> Counts:
    """Count all of it; ``measure``: load the model, and see what a step keeps."""
    from polyrank.federation.planning import footprint
    from polyrank.federation.planning.forecast import forecast

    found, held = forecast(ahead), footprint.footprint(ahead)
    levels = [level.rank for level in found.levels]
    seen = footprint.measured(ahead.config, sorted({1, *levels})) if measure else None
    return Counts(found, held, seen, {rank: footprint.held_for(ahead, rank, held.moments) for rank in (0, 1, *levels)})


Budget = tuple[int | None, int | None]
"""Bytes that a client can send in a round, and bytes of its memory."""


def _budgets(uplink: list[str], memory: list[str]) -> list[Budget]:
    """The kinds of clients: sizes that come once hold for all of them.

    Raises:
        ConfigError: a size cannot be read, or there are several of both in different numbers.
    """
    up, held = (_sizes(name, texts) for name, texts in (("--uplink", uplink), ("--memory", memory)))
    count = max(len(up), len(held))
    if len(up) not in (0, 1, count) or len(held) not in (0, 1, count):
        raise ConfigError(
            f"--uplink comes {len(up)} times and --memory {len(held)} times; expected a value of each for every "
            "kind of client, or one for all"
        )
    return list(zip(_spread(up, count), _spread(held, count), strict=True))


def _sizes(option: str, texts: list[str]) -> list[int]:
    try:
        return [read_size(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _spread(sizes: list[int], count: int) -> list[int] | list[None]:
    return sizes * count if len(sizes) == 1 else sizes or [None] * count


def _fitting(
    ahead: Outlook, found: Forecast, held: Footprint, seen: Measured | None, budgets: list[Budget]
) -> dict[str, Any]:  # Any: TOML values
    """The ``[ranks]`` of clients with these means."""
    from polyrank.federation.planning.fitting import rank_for_memory, rank_for_uplink, with_levels
    from polyrank.federation.planning.footprint import held_for

    base = held.base[seen.precision] if seen else min(held.base.values())

    def needs(rank: int) -> int:
        return base + found.change + held_for(ahead, rank, held.moments) + (seen.at(rank) if seen else 0)

    ranks: list[int] = []
    for up, memory in budgets:
        fits = [] if up is None else [rank_for_uplink(ahead, up)]
        fits += [] if memory is None else [rank_for_memory(ahead, memory, needs)]
        ranks.append(min(fits))
    return with_levels(ahead.config, ranks)


def _described(ahead: Outlook, counts: Counts) -> dict[str, Any]:  # Any: JSON values
    """All of it, with the names of summary.json where it is the same."""
    found, held, seen, needed = counts
    options = ahead.config.federation
    return {
        "method": ahead.config.aggregation.method,
        "task": ahead.config.task.name,
        "model": ahead.config.model.name,
        "rounds": options.rounds,
        "clients": len(ahead.clients.first),
        "cohort": found.cohort,
        "head_parameters": found.head,
        "levels": [asdict(level) | {"training_bytes": needed[level.rank]} for level in found.levels],
        "scoring": {"bytes/up": found.scoring.up, "bytes/down": found.scoring.down},
        "bytes/up": found.up.most if found.up.exact else asdict(found.up),
        "bytes/down": found.down.most if found.down.exact else asdict(found.down),
        "notes": list(found.notes),
        "memory": {
            "base_parameters": held.parameters,
            "base_bytes": dict(held.base),
            "bytes_per_rank": needed[1] - needed[0],
            "base_change_at_most": found.change,
            "measured": asdict(seen) if seen else None,
        },
    }


def show(ahead: Outlook, counts: Counts) -> None:
    """Print what was counted."""
    found, held, seen, needed = counts
    options = ahead.config.federation
    title = (
        f"{ahead.config.aggregation.method} on {ahead.config.model.name}: {options.rounds} rounds of {found.cohort} of "
        f"{len(ahead.clients.first)} clients"
    )
    columns = ["rank", "clients", "parameters trained", "up a round", "down a round", "weights, gradients, optimiser"]
    out.print(title, markup=False, soft_wrap=True)
    made = table("", *columns, *(["activations"] if seen else []))
    for level in found.levels:
        cells = [f"{level.rank}", f"{level.clients}", _count(level.parameters), _size(level.up), _size(level.down)]
        made.add_row(*cells, size(needed[level.rank]), *([size(seen.at(level.rank))] if seen else []))
    out.print(made)
    lines = [f"\nin all: {_size(found.up)} up, {_size(found.down)} down, {_size(found.up + found.down)} together"]
    if found.scoring.up:
        lines[0] += f"; the scoring round's {size(found.scoring.up)} and {size(found.scoring.down)} are in it"
    lines += [f"  {note}" for note in found.notes]
    if found.head:
        travels = "stays with the client" if options.head == "local" else "is in all of these"
        lines.append(f"the head, {found.head:,} numbers, {travels}" if "head" in ahead.parts(1).sends else "")
    bases = " or ".join(f"{size(held.base[name])} in {name}" for name in held.base)
    lines.append(
        f"memory of a client: the base's {held.parameters:,} numbers are {bases}; each rank index takes "
        f"{size(needed[1] - needed[0])}" + (f"; a base change at most {size(found.change)}" if found.change else "")
    )
    if seen:
        where = "the GPU's allocator, gradients included" if seen.allocated else "tensors kept for the backward pass"
        lines.append(
            f"activations: {where}, of a step of {seen.texts} texts of up to {seen.tokens} tokens, the longest of any "
            f"client, in {seen.precision}"
        )
    else:
        lines.append("activations are not in it: --measure loads the model and measures them")
    out.print("\n".join(line for line in lines if line), markup=False, soft_wrap=True)


def _size(span: Span) -> str:
    if span.exact:
        return size(span.most)
    return f"at most {size(span.most)}" if span.least is None else f"{size(span.least)} to {size(span.most)}"


def _count(span: Span) -> str:
    return f"{span.most:,}" if span.exact else f"{span.least:,} to {span.most:,}"
