"""The paper's argument as pictures: who owns which rank index, and what becomes of its energy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from polyrank.report.curves import figure
from polyrank.report.figure import Figure, Groups, Look, Missing, Plot, blank, colour_bar, left_out, plain
from polyrank.report.runs import Run

MOST_PANELS = 12
COLUMNS = 2
ROW_HEIGHT = 170
FLOOR = -4.0
"""Energies below a ten-thousandth are drawn as one: they are gone."""

Matrix = dict[int, list[float | None]]
"""Round -> a number per rank index."""


def lowest_rank(run: Run) -> int:
    """Rank indices up to this one are owned by every client."""
    ranks = [client["rank"] for client in run.clients.values()]
    return min(ranks) if ranks else min(run.config.ranks.levels)


def relative_energy(run: Run) -> Matrix:
    """Each rank index's energy, relative to the mean of those that every client owns, in the same round.

    Rounds without energies or with none in the common rank indices are left out.
    """
    rows: Matrix = {}
    common = lowest_rank(run)
    for line in run.lines:
        energies = line.get("rows/energy") or []
        base = statistics.fmean(energies[:common]) if energies and None not in energies else 0.0
        if base > 0:
            rows[line["round"]] = [energy / base for energy in energies]
    return rows


def kept_ratio(run: Run) -> list[tuple[int, float, float | None]]:
    """Mean relative energy of the rank indices that only some clients own, by round."""
    common = lowest_rank(run)
    rows = relative_energy(run)
    return [(n, n, statistics.fmean(row[common:])) for n, row in rows.items() if len(row) > common]  # type: ignore[arg-type]  # no None in it


def ratio_figure(groups: Groups, looks: Mapping[str, Look]) -> Figure | Missing:
    """One line per method: 1 is not diluted."""
    return figure(
        groups, looks, kept_ratio,
        name="dilution", title="What is left in the rank indices that only some clients own",
        caption=(
            "Mean energy of a rank index above the lowest rank, relative to a rank index that every client owns. At 1 "
            "the rank indices of high-rank clients weigh as much as the others; a line that falls or stays far below 1 "
            "is dilution. Methods that refactor the product by a singular value decomposition sort rank indices by "
            "energy, so theirs is below 1 by construction."
        ),
        absent="all clients have one rank, or no energy was measured there",
        y="energy, relative", log=True, wide=True,
        levels={"not diluted": 1.0},
    )  # fmt: skip


def owners_figure(groups: Groups) -> Figure | Missing:
    """A heatmap per plan of ranks: the share of the cohort's weight that owns each rank index."""
    title = "Owners' weight of each rank index"
    panels: dict[str, Matrix] = {}
    for name, runs in groups.items():
        made = _mean(runs, _owners)
        same = next((other for other, theirs in panels.items() if made and theirs == made), None)
        if same is not None:
            panels[f"{same}, {name}"] = panels.pop(same)
        elif made:
            panels[name] = made
    if not panels:
        return Missing(title, "the run folders have no rows/owners_weight")
    if len(panels) == 1:
        panels = {"all methods" if len(groups) > 1 else next(iter(groups)): next(iter(panels.values()))}
    shown = _few(panels)
    plot = _panels(shown, lambda value: value)
    plot.update_layout(
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": "Cividis", "colorbar": colour_bar("share of the weight", "0%")}
    )
    return Figure(
        "owners-weight", title,
        "Share of a round's weight that belongs to clients which have the rank index at all (mean over the seeds). "
        "Zero padding divides what they learned by the weight of everybody, so it keeps just this share."
        + left_out([name for name in panels if name not in shown], f"only {MOST_PANELS} panels are drawn"),
        plot, wide=len(shown) > 1,
    )  # fmt: skip


def energy_figure(groups: Groups) -> Figure | Missing:
    """A heatmap per method: the energy of each rank index, relative to the common ones."""
    title = "Energy of each rank index"
    panels = {name: made for name, runs in groups.items() if (made := _mean(runs, relative_energy))}
    if not panels:
        return Missing(title, "the run folders have no energies by rank index, or they are all 0")
    shown = _few(panels)
    plot = _panels(shown, lambda value: max(math.log10(value), FLOOR) if value > 0 else FLOOR)
    values = [value for trace in plot.data for row in trace.z for value in row if value is not None]
    low, high = min(math.floor(min(values)), -1), max(math.ceil(max(values)), 0)
    ticks = list(range(low, high + 1))
    named = [f"10<sup>{tick}</sup>" if tick else "1" for tick in ticks]
    if low == FLOOR:
        named[0] = f"≤{named[0]}"
    bar = colour_bar("energy, relative", None) | {"tickvals": ticks, "ticktext": named}
    plot.update_layout(coloraxis={"cmin": low, "cmax": high, "colorscale": "Cividis", "colorbar": bar})
    absent = [name for name in groups if name not in panels]
    return Figure(
        "energy", title,
        "Energy of each rank index over the rounds (mean over the seeds), relative to the mean of the rank indices "
        "that every client owns; the colours are logarithmic. A dark upper part means that what only high-rank clients "
        "learned is gone."
        + left_out(absent, "no energies were measured")
        + left_out([name for name in panels if name not in shown], f"only {MOST_PANELS} panels are drawn"),
        plot, wide=len(shown) > 1,
    )  # fmt: skip


def _owners(run: Run) -> Matrix:
    return {line["round"]: line["rows/owners_weight"] for line in run.lines if line.get("rows/owners_weight")}


def _mean(runs: Sequence[Run], measure: Callable[[Run], Matrix]) -> Matrix:
    """Over the seeds that have the round; rank indices that only some of them have are None."""
    by_round: dict[int, list[list[float | None]]] = {}
    for run in runs:
        for number, row in measure(run).items():
            by_round.setdefault(number, []).append(row)
    mean: Matrix = {}
    for number in sorted(by_round):
        rows = by_round[number]
        longest = max(map(len, rows))
        mean[number] = [_column([row[j] for row in rows if j < len(row)], len(rows)) for j in range(longest)]
    return mean


def _column(values: Sequence[float | None], seeds: int) -> float | None:
    there = [value for value in values if value is not None]
    return round(statistics.fmean(there), 9) if len(there) == seeds else None


def _few(panels: Mapping[str, Matrix]) -> dict[str, Matrix]:
    return dict(list(panels.items())[:MOST_PANELS])


def _panels(panels: Mapping[str, Matrix], colour: Callable[[float], float]) -> Plot:
    """Small heatmaps with one colour scale: rounds to the right, rank indices upwards."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = ROW_HEIGHT * rows + 150 if rows > 1 else 320
    plot = make_subplots(
        rows=rows, cols=columns, shared_xaxes="all", shared_yaxes="all",
        horizontal_spacing=0.06, vertical_spacing=48 / height if rows > 1 else 0,
        subplot_titles=[plain(name, 24) for name in panels],
    )  # fmt: skip
    look = blank(height, margin={"l": 8, "r": 12, "t": 44, "b": 90}).layout
    plot.update_layout(template={}, **{key: look[key] for key in ("height", "margin", "font", "showlegend")})
    plot.update_annotations(font_size=12)
    plot.update_xaxes(title_font_size=13).update_yaxes(title_font_size=13)
    for i, matrix in enumerate(panels.values()):
        longest = max(map(len, matrix.values()))
        z = [
            [None if j >= len(row) or (value := row[j]) is None else colour(value) for row in matrix.values()]
            for j in range(longest)
        ]
        trace = go.Heatmap(
            x=list(matrix), y=list(range(1, longest + 1)), z=z, coloraxis="coloraxis",
            hovertemplate="round %{x}, rank index %{y}: %{z:.3~g}<extra></extra>",
        )  # fmt: skip
        plot.add_trace(trace, row=i // columns + 1, col=i % columns + 1)
    plot.update_xaxes(automargin=True, nticks=7, tickformat="d", row=rows, title_text="round")
    plot.update_yaxes(automargin=True, nticks=6, tickformat="d", col=1, title_text="rank index" if rows < 3 else None)
    if any(len(matrix) == 1 for matrix in panels.values()):
        plot.update_xaxes(dtick=1)
    return plot
