"""One figure of a report: a plot with what stands above and below it, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import Any, TypeAlias

from polyrank.report.runs import Run

Groups: TypeAlias = Mapping[str, Sequence[Run]]
"""What `polyrank.report.runs.grouped` gives: name -> runs, seeds ascending."""
Plot: TypeAlias = Any
"""A plotly figure; Any: plotly is not typed."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""Okabe and Ito's, which differ for colour-blind people too; their yellow is left out, it cannot be seen on white."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
"""Fewer than colours by two, so that groups of the same colour differ."""
GREY = "#6b7280"


@dataclass(frozen=True)
class Look:
    """How one group is drawn in all figures; past seven groups colours come again with another dash."""

    colour: str
    dash: str
    symbol: str

    def faint(self, opacity: float) -> str:
        """The colour as a band has it."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


@dataclass(frozen=True)
class Figure:
    """A plot with its texts.

    Args:
        name: of its files and its place on the page: small letters and hyphens.
        title: what it shows.
        caption: how to read it, and what is left out.
        plot: without title and legend.
        legend: groups that appear in it and are told apart by colour.
        wide: whether it takes the whole width of a page.
        keys: what else is told apart by colour: name -> colour.
    """

    name: str
    title: str
    caption: str
    plot: Plot
    legend: tuple[str, ...] = ()
    wide: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """A figure that cannot be drawn from these runs.

    Args:
        title: what it would show.
        reason: why there is nothing to show.
    """

    title: str
    reason: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour, dash and symbol of each group, in the order of the groups.

    >>> looks(["replication", "zero_padding"])["zero_padding"]
    Look(colour='#d55e00', dash='solid', symbol='square')
    """
    made: dict[str, Look] = {}
    for i, name in enumerate(names):
        again = i // len(COLOURS)
        symbol = SYMBOLS[(i + again) % len(SYMBOLS)]
        made[name] = Look(COLOURS[i % len(COLOURS)], DASHES[again % len(DASHES)], symbol)
    return made


def blank(height: int = 320, **layout: Any) -> Plot:  # Any: what plotly's layout takes
    """An empty plot in the report's style."""
    import plotly.graph_objects as go

    axis = {
        "automargin": True,
        "gridcolor": "#e5e7eb",
        "linecolor": "#9ca3af",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#9ca3af",
        "title": {"standoff": 8, "font": {"size": 13}},
        "zeroline": False,
    }
    plot = go.Figure(
        layout={
            "template": {},
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
                "size": 12,
                "color": "#374151",
            },
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {"namelength": -1},
        }
    )
    plot.update_layout(**{f"{side}axis": axis for side in "xy"})
    return plot.update_layout(**layout)


def colour_bar(title: str, tickformat: str | None) -> dict[str, Any]:  # Any: what plotly's colour bar takes
    """A colour bar below the plot, which needs a lower margin for it."""
    return {
        "title": {"text": title, "side": "bottom"},
        "orientation": "h",
        "thickness": 10,
        "len": 0.8,
        "x": 0.5,
        "xanchor": "center",
        "yref": "container",
        "y": 0,
        "yanchor": "bottom",
        "tickformat": tickformat,
    }


def plain(text: str, width: int | None = None) -> str:
    """Text from a user's file as plotly shows it letter by letter; with a width it is broken into lines.

    >>> plain("a <b> label", width=6)
    'a &lt;b&gt;<br>label'
    """
    lines = wrap(text, width, break_on_hyphens=False) if width else [text]
    return "<br>".join(escape(line, quote=False) for line in lines)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def left_out(names: Sequence[str], why: str) -> str:
    """The end of a caption: which groups are not in the figure; nothing if all are.

    >>> left_out(["fedsa"], "no aggregation error was measured")
    ' Not shown: fedsa (no aggregation error was measured).'
    """
    return f" Not shown: {listed(names)} ({why})." if names else ""
