"""``polyrank compare``: the same federation under several methods and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import completing
from polyrank.cli.console import duration, errors, out, print_json, table
from polyrank.cli.options import Overrides
from polyrank.core.errors import ConfigError
from polyrank.runs.listener import NOT_TRACKED, Listener

if TYPE_CHECKING:
    from polyrank.comparison.compare import Planned
    from polyrank.report.statistics import Comparison


def compare(  # noqa: PLR0917  # Typer's way to declare options
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods with commas between, options after colons: replication,tempered:gamma=0.25.",
            autocompletion=completing.listed_methods,
        ),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(help="Ranks of fedavg, for which all clients have one rank; by default lowest, mean and highest."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between.")] = "0,1,2",
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder of the runs; the same again to go on.")] = None,
    reference: Annotated[str | None, typer.Option(help="The method that others are compared with.")] = None,
    target: Annotated[float | None, typer.Option(help="Value of the task's first metric to reach, e.g. 0.5.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV, and nothing else.")] = False,
) -> None:
    """The same clients, data and seeds under several methods: a table and one HTML page.

    Runs that are in the folder are reused, and one that was interrupted goes on, so the same command continues a
    comparison and adds methods, seeds or rounds to it.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv are both given; expected one of them")
    from polyrank import config as configuration
    from polyrank.comparison.compare import compare as run_all
    from polyrank.comparison.compare import finished, plan
    from polyrank.comparison.entries import DEFAULT_METHODS, entries
    from polyrank.report import runs, statistics
    from polyrank.tasks import settled, task

    common = settled(configuration.load(config, overrides or []))
    wanted = [name.strip() for name in methods.split(",")] if methods else list(DEFAULT_METHODS)
    chosen = entries(common, wanted, None if ranks is None else _numbers("--ranks", ranks, 1))
    statistics.check(runs.names([entry.config for entry in chosen]), task(common).primary, reference, target)
    folder = folder or Path("runs") / f"compare-{config.stem if config else 'quickstart'}"
    planned = plan(chosen, _numbers("--seeds", seeds, 0), folder)
    quiet = as_json or as_csv
    done = [one for one in planned if finished(one)]
    screen = Progress(len(planned), len(done), quiet=quiet)
    try:
        folders = run_all(planned, folder, listener=screen.listener)
    except KeyboardInterrupt:
        count = sum(finished(one) for one in planned)
        errors.print(
            f"interrupted; {count} of {len(planned)} runs are finished. The same command goes on where it stopped",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    _show(folder, folders, reference, target, "json" if as_json else "csv" if as_csv else "table")


def _numbers(option: str, text: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: expected whole numbers with commas between, such as 0,1,2") from None
    if min(numbers) < least or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} {text}: expected different numbers of {least} or more")
    return numbers


def _show(folder: Path, folders: Sequence[Path], reference: str | None, target: float | None, form: str) -> None:
    """Write comparison.json, comparison.csv and report.html, and print one of them."""
    from polyrank.report import page, tables
    from polyrank.report.runs import find, grouped
    from polyrank.report.statistics import compare as compared
    from polyrank.runs.folder import disk_errors

    groups = grouped(find(folders))
    comparison = compared(groups, reference=reference, target=target)
    files = {"comparison.json": tables.json_text(comparison), "comparison.csv": tables.as_csv(comparison)}
    with disk_errors(folder):
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    page.write(folder / "report.html", groups, comparison)
    if form == "json":
        print_json(tables.as_json(comparison))
    elif form == "csv":
        out.print(files["comparison.csv"], markup=False, soft_wrap=True, end="")
    else:
        _print_table(comparison)
        out.print(f"\npage: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _print_table(comparison: Comparison) -> None:
    from polyrank.report import tables

    seeds = max((row.seeds for row in comparison.rows), key=len)
    made = table(f"\n{len(comparison.rows)} methods, seeds {', '.join(map(str, seeds))}", *tables.headings(comparison))
    for row in comparison.rows:
        made.add_row(*tables.cells(row, comparison.metric))
    out.print(made)
    out.print(tables.note(comparison.metric), soft_wrap=True, markup=False)
    if first := tables.before(comparison):
        out.print(first, soft_wrap=True, markup=False)


class Progress:
    """A line per run."""

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self.total, self.done, self.quiet = total, done, quiet
        if done and not quiet:
            out.print(f"{done} of {total} runs are there already")

    def listener(self, one: Planned) -> Listener:
        """The listener of one run."""
        return _OneRun(self, one)

    def say(self, text: str) -> None:
        """Unless results alone are wanted."""
        if not self.quiet:
            out.print(text, markup=False, soft_wrap=True)


class _OneRun(Listener):
    def __init__(self, progress: Progress, one: Planned) -> None:
        self.progress, self.one = progress, one

    def on_end(self, summary: Mapping[str, Any]) -> None:
        from polyrank.tasks import task
        from polyrank.tasks.metric import TEST

        self.progress.done += 1
        primary = task(self.one.entry.config).primary
        reached = primary.number(summary[f"{TEST}{primary.name}"])
        self.progress.say(
            f"[{self.progress.done}/{self.progress.total}] {self.one.name}: {reached} after "
            f"{summary['rounds']} rounds, {duration(summary['seconds'])}"
        )
        for line in summary.get(NOT_TRACKED, ()):
            self.progress.say(f"not tracked: {line}")
