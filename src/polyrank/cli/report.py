"""``polyrank report``: one HTML page from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders that hold some.")],
    page: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page; by default report.html in DIR.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The method that others are compared with.")] = None,
    target: Annotated[float | None, typer.Option(help="Value of the task's first metric to reach, e.g. 0.5.")] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write each figure as PNG and SVG to figures/ beside the page.")
    ] = False,
) -> None:
    """Write one HTML page about runs: results, ranks, dilution, costs, configuration. It opens without a network."""
    from polyrank.report import answer, images
    from polyrank.report import page as report_page
    from polyrank.report.runs import find, grouped
    from polyrank.report.statistics import compare

    groups = grouped(find(folders))
    comparison = compare(groups, reference=reference, target=target)
    page = page or folders[0] / "report.html"
    report_page.write(page, groups, comparison)
    out.print(answer.sentence(groups, comparison), markup=False, soft_wrap=True)
    out.print(f"page: {page}", markup=False, soft_wrap=True)
    if figures:
        written = images.write(page.parent / "figures", groups, comparison)
        out.print(f"figures: {len(written)} files in {page.parent / 'figures'}", markup=False, soft_wrap=True)
