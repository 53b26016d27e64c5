"""What a method costs: time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence

from polyrank.core.text import size
from polyrank.report.figure import GREY, Figure, Groups, Look, Missing, Plot, blank, left_out, plain
from polyrank.report.runs import Run

NAME_WIDTH = 20
PHASES = {
    "arithmetic": "#1b4965",
    "data": "#5fa8d3",
    "optimiser": "#bee9e8",
    "aggregation": "#d55e00",
    "evaluation": "#e9c46a",
    "overhead": "#adb5bd",
}
"""Of ``--profile``, with colours that no group has, but for aggregation, which is what this is about."""


def time_figure(groups: Groups) -> Figure | Missing:
    """A bar per method: the seconds of a round, divided into phases where they were booked."""
    import plotly.graph_objects as go

    title = "Time of a round"
    seconds = {name: _mean(runs, "seconds") for name, runs in groups.items()}
    named = {name: value for name, value in seconds.items() if value is not None}
    if not named:
        return Missing(title, "the run folders have no seconds")
    booked = {name: _phases(groups[name]) for name in named}
    plot, keys = _bars(named), dict[str, str]()
    for phase, colour in PHASES.items():
        bars = {name: phases.get(phase, 0.0) for name, phases in booked.items() if phases}
        if any(bars.values()):
            keys[phase] = colour
            plot.add_trace(
                go.Bar(
                    y=[plain(name, NAME_WIDTH) for name in bars], x=list(bars.values()), orientation="h", name=phase,
                    marker_color=colour, hovertemplate=f"{phase}: %{{x:.3~g}} s<extra></extra>",
                )
            )  # fmt: skip
    whole = {name: value for name, value in named.items() if not booked[name]}
    if whole:
        keys["not divided up"] = GREY
        plot.add_trace(
            go.Bar(
                y=[plain(name, NAME_WIDTH) for name in whole], x=list(whole.values()), orientation="h",
                name="not divided up", marker_color=GREY, hovertemplate="%{x:.3~g} s<extra></extra>",
            )
        )  # fmt: skip
    profiled = any(booked.values())
    plot.update_layout(barmode="stack")
    plot.update_xaxes(title_text="seconds per round")
    return Figure(
        "time", title,
        "Mean over rounds and seeds, evaluation included. "
        + ("The phases are those of polyrank run --profile." if profiled else "polyrank run --profile divides it up.")
        + " Comparable only between runs on the same machine with nothing else to do.",
        plot, keys=keys if profiled else {},
    )  # fmt: skip


def memory_figure(groups: Groups, looks: Mapping[str, Look]) -> Figure | Missing:
    """A bar per method: the most bytes that a run's process held."""
    import plotly.graph_objects as go

    title, absent = "Peak memory", "no finished run says it"
    peaks = {name: max(found) for name, runs in groups.items() if (found := _peaks(runs))}
    if not peaks:
        return Missing(title, absent)
    plot = _bars(peaks)
    plot.add_trace(
        go.Bar(
            y=[plain(name, NAME_WIDTH) for name in peaks], x=[peak / 2**30 for peak in peaks.values()], orientation="h",
            marker_color=[looks[name].colour for name in peaks], text=[size(peak) for peak in peaks.values()],
            textposition="auto", hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title_text="GiB")
    return Figure(
        "memory", title,
        "The most main memory that the process of the run held, the base model and the libraries included; the highest "
        "of the seeds." + left_out([name for name in groups if name not in peaks], absent),
        plot,
    )  # fmt: skip


def _bars(names: Collection[str]) -> Plot:
    plot = blank(100 + 34 * len(names))
    order = [plain(name, NAME_WIDTH) for name in reversed(list(names))]
    plot.update_xaxes(rangemode="tozero")
    return plot.update_yaxes(type="category", categoryorder="array", categoryarray=order, showgrid=False, ticks="")


def _peaks(runs: Sequence[Run]) -> list[int]:
    return [run.summary["memory/peak"] for run in runs if run.summary and run.summary.get("memory/peak")]


def _mean(runs: Sequence[Run], key: str) -> float | None:
    values = [line[key] for run in runs for line in run.lines if line.get(key) is not None]
    return statistics.fmean(values) if values else None


def _phases(runs: Sequence[Run]) -> dict[str, float]:
    """Phase -> seconds per round; empty where no run was profiled. Seeds that were not are left out."""
    return {phase: value for phase in PHASES if (value := _mean(runs, f"time/{phase}")) is not None}
