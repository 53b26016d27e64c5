"""``polyrank methods``: what there is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from polyrank.cli.console import out, print_json, table


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the aggregation methods: paper, what is averaged, whether it is exact, and options."""
    from polyrank.aggregation import METHODS
    from polyrank.aggregation.method import options

    if as_json:
        print_json([{**asdict(cls.info), "options": options(cls)} for cls in METHODS.values()])
        return
    made = table(None, "method", "averages", "exact", "ranks", "options", "paper")
    for column in made.columns:
        column.justify = "left"
    for cls in METHODS.values():
        info = cls.info
        ranks = "equal" if info.equal_ranks else "any"
        exact = "yes" if info.exact else "no"
        made.add_row(info.name, info.averages, exact, ranks, ", ".join(options(cls)) or "-", info.paper or "our own")
    out.print(made)
