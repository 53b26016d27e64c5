"""Tables of a report: methods, runs, ranks, updates left out, configuration, versions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyrank import config as configuration
from polyrank.core.text import duration, size
from polyrank.report import tables
from polyrank.report.figure import Groups, listed
from polyrank.report.html import element, table, wrapped
from polyrank.report.runs import Run
from polyrank.report.statistics import LAST, Comparison

MOST_FAILURES = 50


def comparison_table(comparison: Comparison) -> str:
    """One row per method, as `polyrank compare` prints it."""
    rows = [tables.cells(row, comparison.metric) for row in comparison.rows]
    several = any(len(row.seeds) > 1 for row in comparison.rows)
    less = tables.direction(comparison.metric).replace("; ", ". ")
    note = (
        f"{less[:1].upper()}{less[1:]}End: mean of the last {LAST} evaluated rounds. Mean: of the "
        f"{comparison.metric.title} over the rounds, the area under its curve. A dash: not reached, or nothing to "
        "compare with."
    )
    if several:
        note += (
            " Where a method has several seeds, rounds and MiB to the target stand for one seed each; ± is the "
            f"standard deviation over the seeds; in brackets: {tables.brackets(comparison.metric)}."
        )
    if first := tables.before(comparison):
        note = f"{first} {note}"
    shown = len(rows[0]) if len(rows) > 1 else -2  # the last two columns are differences to another method
    return table("Methods compared", tables.headings(comparison)[:shown], [row[:shown] for row in rows]) + element(
        "p", note, class_="caption"
    )


def ranks_table(groups: Groups) -> str:
    """How many clients have each rank, and how much they hold; methods with the same clients share their rows."""
    plans: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name, runs in groups.items():
        plans.setdefault(tuple(_rank_rows(runs[0])), []).append(name)
    rows: list[tuple[str, ...]] = []
    for plan, names in plans.items():
        who = "all methods" if len(plans) == 1 and len(groups) > 1 else listed(names)
        rows += [(who, *row) for row in plan]
    return table("Ranks of the clients", ("method", "rank", "clients", "examples per client", "groups"), rows)


def runs_table(groups: Groups, page: Path) -> str:
    """One row per run, with the folder as seen from the page."""
    rows: list[tuple[str, ...]] = []
    for name, runs in groups.items():
        for run in runs:
            summary = run.summary or {}
            up, down = (run.scoring.get(key, 0) + sum(line[key] for line in run.lines) for key in _BYTES)
            rows.append(
                (
                    name,
                    str(run.seed),
                    f"{len(run.lines)} of {run.config.federation.rounds}",
                    run.task.primary.number(run.values[-1]),
                    size(up),
                    size(down),
                    duration(sum(line.get("seconds") or 0 for line in run.lines)),
                    size(summary["memory/peak"]) if summary.get("memory/peak") else "-",
                    str(sum(len(line.get("dropped") or ()) for line in run.lines)),
                    _from(page, run.path),
                )
            )
    title = next(iter(groups.values()))[0].task.primary.title
    headings = ("method", "seed", "rounds", f"last {title}", "sent up", "sent down", "time", "peak memory")
    return table("Runs", (*headings, "left out", "folder"), rows)


def privacy_table(groups: Groups) -> str:
    """What each private run cost, and by which noise; nothing if there is none."""
    rows = []
    for name, runs in groups.items():
        for run in runs:
            options, spent = run.config.privacy, [line.get("privacy/epsilon") for line in run.lines]
            if options.model != "none" and spent and isinstance(spent[-1], float):
                delta = "-" if options.delta is None else f"{options.delta:.2g}"
                sampling = options.sampling if options.model == "central" else "-"
                numbers = (f"{spent[-1]:.3f}", delta, str(options.noise), f"{options.clip:g}")
                rows.append((name, str(run.seed), options.model, *numbers, sampling))
    if not rows:
        return ""
    headings = ("method", "seed", "model", "epsilon", "delta", "noise", "clip", "sampling")
    note = "Of all rounds together, at the level of clients. Clip: where it starts, if it follows a quantile."
    return table("Privacy spent", headings, rows) + element("p", note, class_="caption")


def failures_table(groups: Groups) -> str:
    """Every update that was left out, and why; nothing if there is none."""
    rows = [
        (f"{name}, seed {run.seed}", str(line["round"]), client, str(reason))
        for name, runs in groups.items()
        for run in runs
        for line in run.lines
        for client, reason in (line.get("dropped") or {}).items()
    ]
    if not rows:
        return ""
    more = len(rows) - MOST_FAILURES
    note = element("p", f"and {more} more; metrics.jsonl has them all", class_="caption") if more > 0 else ""
    headings = ("run", "round", "client", "why its update was left out")
    return (
        element("h3", "Updates left out") + table("Updates left out", headings, rows[:MOST_FAILURES], text=True) + note
    )


def configuration_details(groups: Groups) -> str:
    """What differs between the runs, then the whole configuration of each."""
    named = [(_named(name, run), run) for name, runs in groups.items() for run in runs]
    differing, _ = _compared({name: _flat(run.config.model_dump(mode="json")) for name, run in named})
    parts = []
    if len(named) > 1:
        parts.append(element("h3", "What differs between the runs"))
        parts.append(_differences(differing))
        parts.append(element("h3", "Whole configuration of each run"))
    for name, run in named:
        text = element("pre", configuration.dump(run.config), tabindex="0")
        parts.append(wrapped("details", element("summary", f"{name}: config.toml") + text))
    return "\n".join(parts)


def versions_details(groups: Groups) -> str:
    """Versions and machine: what all runs share, then what differs."""
    abouts = {_named(name, run): _about(run) for name, runs in groups.items() for run in runs}
    differing, common = _compared(abouts)
    parts = [
        table("Versions and machine", ("", "all runs" if len(abouts) > 1 else "this run"), common.items(), text=True)
    ]
    if differing:
        parts.append(_differences(differing))
    return "\n".join(parts)


_BYTES = ("bytes/up", "bytes/down")
_OF_THE_DATA = ("task", "labels", "outputs", "head_modules", "versions")


def _named(name: str, run: Run) -> str:
    return f"{name}, seed {run.seed}"


def _rank_rows(run: Run) -> list[tuple[str, ...]]:
    by_rank: dict[int, list[Mapping[str, Any]]] = {}  # Any: JSON values
    for client in run.clients.values():
        by_rank.setdefault(client["rank"], []).append(client)
    rows: list[tuple[str, ...]] = []
    for rank, clients in sorted(by_rank.items()):
        held = [client["examples"] for client in clients if "examples" in client]  # a private run does not say it
        span = f"{min(held)} to {max(held)}" if len(set(held)) > 1 else str(held[0]) if held else "-"
        groups = Counter(client.get("group") for client in clients)
        words = [f"{count} {group}" for group, count in sorted(groups.items(), key=str) if group is not None]
        rows.append((str(rank), str(len(clients)), span, ", ".join(words) or "-"))
    return rows


def _differences(differing: Mapping[str, Mapping[str, str]]) -> str:
    """One row per run, one column per key; with more keys than runs the other way round, which is narrower."""
    keys = list(next(iter(differing.values()), {}))
    if len(keys) <= len(differing):
        rows = [(name, *values.values()) for name, values in differing.items()]
        return table("Differences between the runs", ("run", *keys), rows)
    rows = [(key, *(values[key] for values in differing.values())) for key in keys]
    return table("Differences between the runs", ("", *differing), rows)


def _compared(values: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """What differs, by run, and what is the same in all."""
    keys = list(dict.fromkeys(key for one in values.values() for key in one))
    telling = [key for key in keys if len({one.get(key, "-") for one in values.values()}) > 1]
    first = next(iter(values.values()))
    differing = {name: {key: one.get(key, "-") for key in telling} for name, one in values.items()} if telling else {}
    return differing, {key: first[key] for key in keys if key not in telling}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:  # Any: JSON values
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = "-" if value is None else str(value)
    return flat


def _about(run: Run) -> dict[str, str]:
    """What run.json says, but for what belongs to the data and what is learned of them."""
    known = {key: value for key, value in run.about.items() if key not in _OF_THE_DATA}
    return _flat(run.about.get("versions") or {}) | _flat(known)


def _from(page: Path, folder: Path) -> str:
    try:
        inside = os.path.relpath(folder, page.resolve().parent)
        return inside if inside != os.curdir else folder.name
    except ValueError:  # another drive of Windows
        return str(folder)
