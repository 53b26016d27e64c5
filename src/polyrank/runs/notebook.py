"""A run under a notebook's cell: a table and a curve that grow with the rounds. IPython is not needed elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from polyrank.core.text import duration, size
from polyrank.runs.listener import Listener
from polyrank.tasks.metric import TEST, Metric

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.server import Server

WIDTH, HEIGHT, EDGE = 560, 170, 14
"""The curve's, in pixels."""
OFTEN = 0.5
"""Seconds between two showings of clients that are done."""
STAGES = {"scoring": "scoring clients", "training": "training"}


def in_notebook() -> bool:
    """Whether this is the process of a notebook, which shows HTML; IPython on a terminal does not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Live(Listener):
    """What a run tells, under the cell that started it: a line per round, the first metric's curve, the time left.

    `polyrank.run` takes one in a notebook where it is given no listener; ``polyrank.Listener()`` shows nothing.
    """

    def __init__(self) -> None:
        self._metrics: Sequence[Metric] = ()
        self._title = self._state = ""
        self._rounds = 0
        self._lines: list[Mapping[str, Any]] = []
        self._left: float | None = None
        self._shown = 0.0
        self._handle: Any = None  # Any: IPython is not typed

    def on_start(self, server: Server, state: ServerState) -> None:
        from IPython.display import display

        config = server.config
        self._metrics = [metric for metric in server.site.task.metrics if metric.curve]
        self._rounds = config.federation.rounds
        self._title = (
            f"{config.aggregation.method} on {config.model.name}: {self._rounds} rounds, {len(server.clients)} clients"
        )
        self._state = f"going on after round {state.round}" if state.round else "begins"
        self._handle = display(self._content(), raw=True, display_id=True)

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        self._lines.append(metrics)
        self._show()

    def on_client(self, stage: str, done: int, total: int) -> None:
        self._state = f"{STAGES.get(stage, stage)}: {done} of {total} clients"
        if time.monotonic() - self._shown > OFTEN:
            self._show()

    def on_time_left(self, seconds: float) -> None:
        self._left = seconds

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        self._lines.append(metrics)
        self._state = f"round {metrics['round']} of {self._rounds}"
        self._show()

    def on_end(self, summary: Mapping[str, Any]) -> None:
        first = self._metrics[0]
        best = first.number(summary[f"best/{first.name}"])
        self._left = None
        self._state = f"done; best test {first.title} {best} in round {summary['best/round']}"
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """The same for whoever shows HTML and for whoever shows text."""
        left = f", {duration(self._left)} left" if self._left else ""
        head = f"{self._title}; {self._state}{left}"
        return {"text/plain": "\n".join([head, *self._text()]), "text/html": self._html(head)}

    def _text(self) -> list[str]:
        return ["  ".join(f"{cell:>11}" for cell in row) for row in self._table()] if self._lines else []

    def _html(self, head: str) -> str:
        if not self._lines:
            return f"<p>{escape(head)}</p>"
        titles, *rows = self._table()
        cells = "".join(f"<th>{escape(title)}</th>" for title in titles)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        table = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        scrolled = f'<div style="max-height: 22em; overflow: auto; display: inline-block">{table}</div>'
        return f"<p>{escape(head)}</p>{self._curve()}{scrolled}"

    def _table(self) -> list[list[str]]:
        titles = ["round", *(f"test {metric.title}" for metric in self._metrics), "up", "down"]
        rows = [
            [
                str(line["round"]),
                *(metric.number(line.get(f"{TEST}{metric.name}")) for metric in self._metrics),
                *(size(line[key]) if key in line else "-" for key in ("bytes/up", "bytes/down")),
            ]
            for line in self._lines
        ]
        return [titles, *rows]

    def _curve(self) -> str:
        """The first metric over the rounds, as SVG in the colour of the text; nothing before there are two points."""
        first = self._metrics[0]
        found = [(line["round"], line.get(f"{TEST}{first.name}")) for line in self._lines]
        points = [(number, value) for number, value in found if value is not None]
        if len(points) < 2:
            return ""
        values = [value for _, value in points]
        low, high = min(values), max(values)
        begin, end = points[0][0], max(self._rounds, points[-1][0])

        def place(number: float, value: float) -> str:
            x = EDGE + (WIDTH - 2 * EDGE) * (number - begin) / (end - begin)
            share = (value - low) / (high - low) if high > low else 0.5
            return f"{x:.1f},{HEIGHT - EDGE - (HEIGHT - 3 * EDGE) * share:.1f}"

        line = " ".join(place(*point) for point in points)
        said = f"{first.title} {first.number(low)} to {first.number(high)}, rounds {begin} to {points[-1][0]}"
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" style="max-width: 100%; display: block" role="img" '
            f'aria-label="{escape(said)}"><text x="{EDGE}" y="{EDGE}" font-size="12" fill="currentColor">{escape(said)}'
            f'</text><polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"/></svg>'
        )
