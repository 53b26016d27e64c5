"""How the command line speaks: results on standard output, errors on standard error, numbers a person can read."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from polyrank.core.text import duration, number, percent, size

__all__ = ["duration", "errors", "number", "out", "percent", "print_json", "size", "table"]

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
