"""Pages of the reference that the code writes: Python's names, commands, metrics, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import typer
from typer.cli import get_docs_for_click

from polyrank import cli
from polyrank.config import Config
from polyrank.core import errors
from polyrank.core.errors import PolyRankError
from polyrank.tasks import TASKS, Metric
from tools.pages import public

ERRORS = [
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PolyRankError)
]
"""Where each error is defined, in the order of the file."""


def python() -> str:
    """Every public name, from its docstring."""
    parts = [
        "# Python",
        "What stands here is public: its names and signatures are declared in `docs/public.txt`, and a test compares "
        "them with the code. All else may change from one version to the next.",
    ]
    for module, names in public.by_module().items():
        if module == errors.__name__:
            parts.append(f"## `{module}`\n\n[Errors](errors.md) have a page of their own.")
            continue
        parts.append(f"## `{module}`")
        for name in names:
            place = public.place(f"{module}.{name}")
            if place in ERRORS:
                parts.append(f"### {name}\n\nThe base of all [errors](errors.md).")
            elif place is None:
                parts.append(f"### {name}\n\nA value: {public.about(f'{module}.{name}')}")
            else:
                parts.append(f"::: {place}\n    options: {{heading: '{name}', toc_label: '{name}'}}")
                if not place.endswith(f".{name}"):
                    parts.append(f"It is imported as `{module}.{name}`.")
                if name == Config.__name__:
                    parts.append("Every key of every section: [configuration](../configuration.md).")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Every command, from what ``--help`` says."""
    command = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="polyrank")
    text = get_docs_for_click(obj=command, ctx=context, name="polyrank", title="Commands")
    codes = (inspect.getdoc(cli.main) or "").partition("Exit codes: ")[2]
    return f"{text}\n## Exit codes\n\n{codes}\n"


def metrics() -> str:
    """Every metric of every task, and where it is found."""
    parts = [
        "# Metrics",
        "What a task measures. Each stands under `test/` in the lines of metrics.jsonl, under `best/` and `constant/` "
        "in summary.json, and under `own/` where sites measure on test sets of their own; what else is in these files "
        "is in [the run folder](../run-folder.md).",
    ]
    for name, task in TASKS.items():
        rows = ["| metric | in words | better | unit | from | to | |", "|---|---|---|---|---|---|---|"]
        rows += [_metric(metric) for metric in task.metrics]
        parts += [f"## `{name}`", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _metric(metric: Metric) -> str:
    ends = (f"{end:g}" if end not in (float("inf"), float("-inf")) else "-" for end in (metric.least, metric.most))
    unit = "share, shown in %" if metric.unit == "%" else metric.unit or "-"
    cells = (f"`{metric.name}`", metric.title, metric.better, unit, *ends, metric.about or "-")
    return f"| {' | '.join(cells)} |"


def error_classes() -> str:
    """Every error that a user can mend."""
    parts = ["# Errors", (inspect.getdoc(errors) or "").partition("\n\n")[2]]
    parts += [f"::: {place}" for place in ERRORS]
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/python.md": python,
    "reference/commands.md": commands,
    "reference/metrics.md": metrics,
    "reference/errors.md": error_classes,
}


def pages() -> dict[str, str]:
    """Path in the site -> text."""
    return {path: written() for path, written in PAGES.items()}
