"""Who has which rank, which labels, and how well each rank group does."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby

from polyrank.report.figure import Figure, Groups, Look, Missing, blank, colour_bar, left_out, plain
from polyrank.report.runs import Run
from polyrank.tasks import Metric

LABEL_WIDTH = 16
NARROWEST = 0.04
"""Share of the clients that a rank group needs for its number to find room under the heatmap."""


def labels_figure(run: Run, name: str) -> Figure | Missing:
    """A heatmap of one run: the share of each label in each client's examples, clients by rank.

    Args:
        run: whose clients are shown.
        name: what the run is called.
    """
    import plotly.graph_objects as go

    title = "Labels of each client, by rank"
    clients = sorted(run.clients, key=lambda client: (run.clients[client]["rank"], client))
    if not clients or not all(run.clients[client].get("labels") for client in clients):
        return Missing(title, "clients.json does not say which labels the clients hold")
    labels = [plain(label, LABEL_WIDTH) for label in run.about["labels"]]
    counts = [run.clients[client]["labels"] for client in clients]
    z = [[row[i] / max(sum(row), 1) for row in counts] for i in range(len(labels))]
    ranks = [run.clients[client]["rank"] for client in clients]
    hover = [[f"{plain(client)}, rank {rank}" for client, rank in zip(clients, ranks, strict=True)]] * len(labels)
    plot = blank(min(180 + 34 * len(labels), 760), margin={"l": 8, "r": 12, "t": 12, "b": 120})
    plot.add_trace(
        go.Heatmap(
            x=list(range(len(clients))), y=labels, z=z, customdata=hover, zmin=0, zmax=1, colorscale="Blues",
            hovertemplate="%{customdata}: %{z:.0%} %{y}<extra></extra>",
            colorbar=colour_bar("share of the client's examples", ".0%"),
        )
    )  # fmt: skip
    ticks, texts, start = [], [], 0
    for rank, same in groupby(ranks):
        count = len(list(same))
        if start:
            plot.add_vline(x=start - 0.5, line={"color": "#d55e00", "width": 2})
        if count >= NARROWEST * len(clients):
            ticks.append(start + (count - 1) / 2)
            texts.append(f"{rank}<br>({count})")
        start += count
    plot.update_xaxes(title_text="rank (clients)", tickvals=ticks, ticktext=texts, showgrid=False, tickangle=0)
    plot.update_yaxes(showgrid=False, ticks="")
    caption = (
        f"One column per client of {name}, seed {run.seed}, sorted by rank; a line between ranks. Dark: most of the "
        "client's examples have this label. Other seeds draw other clients."
    )
    return Figure("labels", title, caption, plot, wide=True)


def rank_groups_figure(groups: Groups, looks: Mapping[str, Look]) -> Figure | Missing:
    """The primary metric of what each rank group is sent at the end."""
    import plotly.graph_objects as go

    metric = next(iter(groups.values()))[0].task.primary
    title = f"{metric.title[:1].upper()}{metric.title[1:]} of each rank group"
    scores = {name: found for name, runs in groups.items() if (found := _by_rank(runs, metric))}
    if not scores:
        return Missing(title, "it is measured at the end of a run with evaluation.rank_groups, and no run has it")
    ranks = sorted({rank for found in scores.values() for rank in found})
    plot = blank(scattermode="group", scattergap=0.4)
    for name, found in scores.items():
        offs = [statistics.stdev(values) if len(values) > 1 else 0 for values in found.values()]
        plot.add_trace(
            go.Scatter(
                x=[str(rank) for rank in found], y=[statistics.fmean(values) for values in found.values()],
                mode="markers", offsetgroup=name, name=plain(name), legendgroup=name,
                marker={"color": looks[name].colour, "symbol": looks[name].symbol, "size": 9},
                error_y={"type": "data", "array": offs, "thickness": 1.5} if any(offs) else None,
                hovertemplate=f"rank %{{x}}: %{{y:{'.1%' if metric.share else '.4~g'}}}",
            )
        )  # fmt: skip
    order = [str(rank) for rank in ranks]
    plot.update_xaxes(title_text="rank of the group", type="category", categoryorder="array", categoryarray=order)
    plot.update_yaxes(title_text=f"test {metric.title}", tickformat=".0%" if metric.share else None)
    for i in range(len(ranks) - 1):
        plot.add_vline(x=i + 0.5, line={"color": "#e5e7eb", "width": 1})
    absent = [name for name in groups if name not in scores]
    several = any(len(runs) > 1 for runs in groups.values())
    return Figure(
        "rank-groups", title,
        f"Test {metric.title}, after the last round, of the adapter that clients of each rank are sent"
        + (" (mean over the seeds; whiskers: one standard deviation)." if several else ".")
        + left_out(absent, "not measured, or not finished"),
        plot, tuple(scores), wide=True,
    )  # fmt: skip


def _by_rank(runs: Sequence[Run], metric: Metric) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run in runs:
        for group in (run.summary or {}).get("rank_groups") or []:
            if group.get(metric.name) is not None:
                found.setdefault(group["rank"], []).append(group[metric.name])
    return dict(sorted(found.items()))
