"""Curves over the rounds or the bytes: one line per group, a band for the spread over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyrank.report.figure import GREY, Figure, Groups, Look, Missing, Plot, blank, left_out, plain
from polyrank.report.runs import Run

Samples = Callable[[Run], Sequence[tuple[int, float, float | None]]]
"""A run's measurements: round, place on the x axis, value or None."""

FEW = 12
"""So many rounds or less are marked one by one."""
BAND = " Line: mean over the seeds; band: one standard deviation to each side, where there are two seeds or more."


@dataclass(frozen=True)
class Curve:
    """A group's mean and standard deviation over its seeds, by round.

    ``low`` and ``high`` are one standard deviation away, None where fewer than two seeds have the round.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def curve(runs: Sequence[Run], samples: Samples, *, log: bool = False) -> Curve:
    """The spread over seeds at each round that at least one seed has.

    Args:
        runs: of one group.
        samples: what is measured; places on the x axis are averaged over the seeds like the values.
        log: whether mean and deviation are those of the logarithms, as befits ratios; values must be above 0.
    """
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        for number, x, value in samples(run):
            if value is not None and math.isfinite(value) and (value > 0 or not log):
                by_round.setdefault(number, []).append((x, math.log(value) if log else value))
    points: list[tuple[float, float, float | None, float | None]] = []
    back = math.exp if log else float
    for number in sorted(by_round):
        values = [value for _, value in by_round[number]]
        mean = statistics.fmean(values)
        off = statistics.stdev(values) if len(values) > 1 else None
        low, high = (None, None) if off is None else (back(mean - off), back(mean + off))
        points.append((statistics.fmean(x for x, _ in by_round[number]), back(mean), low, high))
    columns = tuple(zip(*points, strict=True)) or ((), (), (), ())
    return Curve(*columns)


def by_round(key: str) -> Samples:
    """A number of metrics.jsonl against rounds, from round 0 on where the base was measured as it is."""
    return lambda run: [(line["round"], line["round"], line.get(key)) for line in run.course]


def by_bytes(key: str) -> Samples:
    """A number of the evaluated rounds against what was sent until then, in MiB."""

    def samples(run: Run) -> list[tuple[int, float, float | None]]:
        lines = zip(run.evaluated, run.traffic, strict=True)
        first = [(0, 0.0, run.untrained.get(key))] if run.untrained else []
        return [*first, *((line["round"], sent / 2**20, line.get(key)) for line, sent in lines)]

    return samples


def figure(
    groups: Groups,
    looks: Mapping[str, Look],
    samples: Samples,
    *,
    name: str,
    title: str,
    caption: str,
    absent: str,
    x: str = "round",
    y: str = "",
    share: bool = False,
    log: bool = False,
    wide: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Figure | Missing:
    """One line per group.

    Args:
        groups: name -> runs.
        looks: name -> colour, dash and symbol.
        samples: what is drawn.
        name: of `Figure`, as are title, caption and wide.
        title: see there.
        caption: see there; what the band is and who is left out is added.
        absent: why a group may have no such values.
        x: title of the axis.
        y: title of the axis.
        share: whether values are shares of 1, shown in per cent.
        log: whether the y axis is logarithmic.
        wide: see there.
        levels: label -> value, of at most two horizontal lines.
    """
    curves = {group: curve(runs, samples, log=log) for group, runs in groups.items()}
    drawn = [group for group, made in curves.items() if made.x]
    if not drawn:
        return Missing(title, absent)
    plot = blank()
    for group in drawn:
        _draw(plot, group, curves[group], looks[group], share=share)
    for side, (label, value) in zip(("left", "right"), (levels or {}).items(), strict=False):
        plot.add_hline(y=value, line={"color": GREY, "dash": "dot", "width": 1})
        plot.add_annotation(
            text=plain(label), showarrow=False, font={"color": GREY, "size": 11}, y=math.log10(value) if log else value,
            xref="paper", x=float(side == "right"), xanchor=side, yanchor="bottom" if side == "left" else "top",
        )  # fmt: skip
    plot.update_xaxes(title_text=x, rangemode="tozero" if x != "round" else "normal")
    plot.update_yaxes(title_text=y, tickformat=".0%" if share else None, type="log" if log else "linear")
    plot.update_yaxes(rangemode="nonnegative")
    if log:
        values = [value for group in drawn for value in curves[group].mean]
        few = max(values) < 100 * min(values)
        plot.update_yaxes(**({"tickvals": _ticks(values)} if few else {"dtick": 1, "exponentformat": "power"}))
    if x == "round":
        _whole_rounds(plot, [value for group in drawn for value in curves[group].x])
    band = BAND if any(len(runs) > 1 for runs in groups.values()) else ""
    missing = [group for group in groups if group not in drawn]
    return Figure(name, title, caption + band + left_out(missing, absent), plot, tuple(drawn), wide)


def _draw(plot: Plot, group: str, made: Curve, look: Look, *, share: bool) -> None:
    import plotly.graph_objects as go

    same: dict[str, Any] = {"name": plain(group), "legendgroup": group}  # Any: what plotly's traces take
    spread = [(x, low, high) for x, low, high in zip(made.x, made.low, made.high, strict=True) if low is not None]
    error = None
    if len(made.x) == 1 and spread:
        error = {"type": "data", "array": [made.high[0] - made.mean[0]], "thickness": 1.5}  # type: ignore[operator]  # not None, as low
    elif spread:
        there, back = list(spread), list(reversed(spread))
        plot.add_trace(
            go.Scatter(
                x=[x for x, _, _ in there + back],
                y=[high for _, _, high in there] + [low for _, low, _ in back],
                fill="toself", fillcolor=look.faint(0.16), line={"width": 0}, mode="lines", hoverinfo="skip",
                showlegend=False, **same,
            )
        )  # fmt: skip
    mode = "markers" if len(made.x) == 1 else "lines+markers" if len(made.x) <= FEW else "lines"
    plot.add_trace(
        go.Scatter(
            x=list(made.x), y=list(made.mean), mode=mode, error_y=error,
            line={"color": look.colour, "dash": look.dash, "width": 2},
            marker={"color": look.colour, "symbol": look.symbol, "size": 9 if len(made.x) == 1 else 6},
            hovertemplate="%{y:.1%}, at %{x:.4~g}" if share else "%{y:.4~g}, at %{x:.4~g}", **same,
        )
    )  # fmt: skip


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around some values.

    >>> _ticks([12.2, 148.4])
    [10.0, 20.0, 50.0, 100.0, 200.0]
    """
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if min(values) / 2 <= tick <= max(values) * 2]


def _whole_rounds(plot: Plot, rounds: Sequence[float]) -> None:
    """Ticks at whole numbers only; a single round stands in the middle instead of filling the axis."""
    low, high = min(rounds), max(rounds)
    if high - low < FEW:
        plot.update_xaxes(dtick=1)
    if low == high:
        plot.update_xaxes(range=[low - 1, high + 1], tickvals=[low])
