"""How the command line speaks: results on standard output, errors on standard error, numbers a person can read."""

from __future__ import annotations

import math
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 160
"""Columns where there is no terminal to ask: tables in a file or a pipe are not squeezed into 80."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)


out = _console(sys.stdout, stderr=False)
errors = _console(sys.stderr, stderr=True)


def table(title: str | None, *columns: str) -> Table:
    """A table whose first column is text and the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right")
    return made


def print_json(value: Any) -> None:  # Any: plain JSON values
    """A value as JSON on standard output, and nothing else."""
    import json

    print(json.dumps(value, indent=1))  # noqa: T201  # the command's result


def size(number: float) -> str:
    """Bytes for people.

    >>> size(950), size(2_211_840)
    ('950 B', '2.1 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError  # the loop returns at GiB


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.4), duration(95), duration(7260)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float | None) -> str:
    """A share of 1 as per cent with one decimal; a dash where nothing was measured.

    >>> percent(0.5678), percent(None)
    ('56.8 %', '-')
    """
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Three decimals; a dash where nothing was measured or it was not finite.

    >>> number(1.23456), number(None)
    ('1.235', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
