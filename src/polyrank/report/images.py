"""PNG and SVG of each figure, for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyrank.core.errors import ReportError
from polyrank.report.figure import Figure, Groups, Look, Plot, looks
from polyrank.report.sections import sections
from polyrank.report.statistics import Comparison

WIDTH, WIDE = 560, 860
"""Points of a figure of half and of full width."""
SCALE = 3
"""Pixels of a PNG per point."""
TIMEOUT = 120
"""Seconds for one figure; a browser on a busy machine is slow to start."""


def write(folder: Path, groups: Groups, comparison: Comparison) -> list[Path]:
    """Write every figure of the report as ``NAME.png`` and ``NAME.svg``; older ones of the same name are replaced.

    Args:
        folder: made if it is not there.
        groups: of `polyrank.report.runs.grouped`.
        comparison: of the same groups.

    Returns:
        The files.

    Raises:
        ReportError: kaleido or a browser is missing, or the files cannot be written.
    """
    figures = [figure for section in sections(groups, comparison) for figure in section.figures]
    return draw(folder, [figure for figure in figures if isinstance(figure, Figure)], looks(groups), ("png", "svg"))


def draw(folder: Path, figures: Sequence[Figure], look: Mapping[str, Look], forms: Sequence[str]) -> list[Path]:
    """Write some figures as ``NAME.FORM``; arguments, result and errors as of `write`.

    Args:
        folder: see there.
        figures: what to draw.
        look: of the groups in their legends.
        forms: ``png``, ``svg`` or both.
    """
    jobs = [_job(figure, look, folder, form) for figure in figures for form in forms]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw(jobs)
    except OSError as error:
        raise ReportError(
            f"{folder}: figures cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    return [job["path"] for job in jobs]


def _draw(jobs: list[dict[str, Any]]) -> None:  # Any: what kaleido takes
    try:
        import kaleido
        from choreographer.browsers.chromium import ChromeNotFoundError
        from choreographer.errors import BrowserClosedError, BrowserFailedError
    except ImportError:
        raise ReportError("--figures needs kaleido: pip install 'polyrank[figures]'") from None
    options = {"page_generator": kaleido.PageGenerator(mathjax=False), "timeout": TIMEOUT}  # MathJax is on the network
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts=options, cancel_on_error=True)
    except ChromeNotFoundError:
        raise ReportError(
            "--figures needs Chrome or Chromium, and none was found: install it (Debian: apt install chromium), or "
            "name it in the environment variable BROWSER_PATH"
        ) from None
    except (BrowserFailedError, BrowserClosedError, TimeoutError) as error:
        why = str(error) or f"no figure within {TIMEOUT} s"
        raise ReportError(f"--figures: the browser failed: {why}; name another one in BROWSER_PATH") from error


def _job(figure: Figure, look: Mapping[str, Look], folder: Path, form: str) -> dict[str, Any]:  # Any: as above
    width = WIDE if figure.wide else WIDTH
    plot = _with_legend(figure, look)
    options = {"format": form, "width": width, "height": plot.layout.height, "scale": SCALE if form == "png" else 1}
    return {"fig": plot, "path": folder / f"{figure.name}.{form}", "opts": options}


def _with_legend(figure: Figure, look: Mapping[str, Look]) -> Plot:
    """A copy that stands alone: on a page the legend is beside the plot."""
    import plotly.graph_objects as go

    plot = go.Figure(figure.plot)
    entries = len(figure.keys) + (len(figure.legend) if len(look) > 1 else 0)
    if not entries:
        return plot
    lines = -(-entries // (3 if figure.wide else 2))
    plot.update_layout(
        showlegend=True, height=plot.layout.height + 24 * lines, margin_b=60 + 24 * lines,
        legend={"orientation": "h", "traceorder": "normal", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return plot
