"""Aggregation error of each adapted module."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from polyrank.report.figure import Figure, Groups, Look, Missing, blank, left_out, plain
from polyrank.report.runs import Run

MOST_ROWS = 40
"""Modules that are drawn one by one; more are averaged by their last name."""


def error_figure(groups: Groups, looks: Mapping[str, Look]) -> Figure | Missing:
    """A row per module, a dot per method: the mean over rounds and seeds."""
    import plotly.graph_objects as go

    title = "Aggregation error by layer"
    absent = "no error by module was measured"
    errors = {name: found for name, runs in groups.items() if (found := mean_errors(runs))}
    if not errors:
        return Missing(title, f"{absent}: diagnostics were switched off, or the method has no global product")
    modules = list(dict.fromkeys(module for found in errors.values() for module in found))
    averaged = len(modules) > MOST_ROWS
    if averaged:
        errors = {name: _by_last_name(found) for name, found in errors.items()}
        modules = list(dict.fromkeys(module for found in errors.values() for module in found))
    rows = dict(zip(modules, short(modules), strict=True))
    plot = blank(90 + 26 * len(modules))
    for name, found in errors.items():
        plot.add_trace(
            go.Scatter(
                x=list(found.values()), y=[plain(rows[module]) for module in found], mode="markers",
                name=plain(name), legendgroup=name,
                marker={"color": looks[name].colour, "symbol": looks[name].symbol, "size": 9},
                hovertemplate="%{y}: %{x:.4~g}",
            )
        )  # fmt: skip
    plot.update_xaxes(title_text="error, relative", rangemode="tozero")
    order = [plain(rows[module]) for module in reversed(modules)]
    plot.update_yaxes(type="category", categoryorder="array", categoryarray=order)
    return Figure(
        "error-by-layer", title,
        "Distance between what aggregation made of a module and the weighted mean of the clients' products, relative "
        "to that mean (mean over rounds and seeds). 0 is exact; 1 is as far off as doing nothing."
        + (f" The {len(rows)} rows are means over modules of the same last name." if averaged else "")
        + left_out([name for name in groups if name not in errors], absent),
        plot, tuple(errors),
    )  # fmt: skip


def mean_errors(runs: Sequence[Run]) -> dict[str, float]:
    """Module -> mean error over rounds and seeds; a module without any finite error is left out."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for line in run.lines:
            for module, error in (line.get("aggregation/error_by_module") or {}).items():
                if error is not None:
                    found.setdefault(module, []).append(error)
    return {module: statistics.fmean(values) for module, values in found.items()}


def short(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all of them share.

    >>> short(["encoder.layer.0.self.query", "encoder.layer.1.self.value"])
    ['0 query', '1 value']
    >>> short(["classifier"])
    ['classifier']
    """
    split = [name.split(".") for name in names]
    if len(names) == 1 or len({len(parts) for parts in split}) > 1:
        return list(names)
    telling = [i for i, column in enumerate(zip(*split, strict=True)) if len(set(column)) > 1]
    return [" ".join(parts[i] for i in telling) for parts in split]


def _by_last_name(errors: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for module, error in errors.items():
        found.setdefault(module.rpartition(".")[2], []).append(error)
    return {name: statistics.fmean(values) for name, values in found.items()}
