"""``polyrank run``: a federation on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from polyrank.cli import completing
from polyrank.cli.console import duration, errors, out, percent, size, table
from polyrank.cli.dry_run import about, dry_run
from polyrank.cli.options import Overrides
from polyrank.core.errors import ConfigError
from polyrank.runs.listener import NOT_TRACKED, Listener

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.server import Server
    from polyrank.tasks import Metric


def run(  # noqa: PLR0917  # Typer's way to declare options
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Run folder; by default the next one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, show the plan, bytes and time; train and write nothing."),
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    quickstart: Annotated[
        str | None,
        typer.Option(
            "--quickstart",
            metavar="NAME",
            help="classification (the default) or generative, a model that writes.",
            autocompletion=completing.quickstarts,
        ),
    ] = None,
) -> None:
    """Run a federation on this machine; without CONFIG a quickstart."""
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it; give one of them")
    if resume and folder is None:
        raise ConfigError("--resume needs the folder of the run: polyrank run --resume --out DIR")
    if quickstart is not None:
        if config is not None:
            raise ConfigError(f"found {config} and --quickstart {quickstart}; expected one of them")
        from polyrank.quickstart import config_path

        config = config_path(quickstart)
    folder = folder or _next_folder(config.stem if config else "quickstart")
    from polyrank import config as configuration

    given = None if resume and config is None else configuration.load(config, overrides or [])
    if dry:
        dry_run(given, folder, overrides or [], resume=resume, overwrite=overwrite)
        return
    screen = Screen()
    try:
        screen.wait()
        from polyrank.runs.runner import run as run_federation
        from polyrank.runs.runner import saved_config

        chosen = given or configuration.override(saved_config(folder), overrides or [])
        run_federation(chosen, folder, resume=resume, overwrite=overwrite, profile=profile, listener=screen)
    except KeyboardInterrupt:
        screen.stop()
        if screen.round_saved is None:
            errors.print("interrupted before the first round was saved; start again", soft_wrap=True)
        else:
            errors.print(
                f"interrupted; {screen.round_saved} rounds are saved. "
                f"Continue with: polyrank run --resume --out {folder}",
                markup=False,
                soft_wrap=True,
            )
        raise typer.Exit(130) from None
    finally:
        screen.stop()
    out.print(f"run folder: {folder}", markup=False, soft_wrap=True)


def _next_folder(name: str) -> Path:
    taken = {path.name for path in Path("runs").glob(f"{name}-*")}
    number = next(i for i in range(1, len(taken) + 2) if f"{name}-{i:03d}" not in taken)
    return Path("runs") / f"{name}-{number:03d}"


class Screen(Listener):
    """Progress for people: a line per round, a bar for the clients, a table at the end."""

    def __init__(self) -> None:
        self.round_saved: int | None = None
        self._rounds = 0
        self._metrics: Sequence[Metric] = ()
        self._baseline = ""
        self._left = 0.0
        self._private = False
        self._patience: int | None = None
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} clients"),
            TimeRemainingColumn(compact=True),
            console=out,
            transient=True,
        )
        self._waiting = out.status("loading the libraries, the data and the model")
        self._bar = self._progress.add_task("loading", total=None, visible=False)

    def wait(self) -> None:
        """Say on a terminal that it has begun: until all is loaded there is nothing to show."""
        self._waiting.start()

    def on_start(self, server: Server, state: ServerState) -> None:
        self._waiting.stop()
        config, site = server.config, server.site
        self._metrics = site.task.metrics
        self._baseline = site.task.baseline("training")
        self._private, self._patience = server.accountant is not None, config.evaluation.patience
        self._rounds, self.round_saved = config.federation.rounds, state.round or None
        out.print(about(server), markup=False)
        if state.round:
            out.print(f"continuing after round {state.round}")
        self._progress.start()
        self._show_header()

    def on_client(self, stage: str, done: int, total: int) -> None:
        label = "scoring clients" if stage == "scoring" else "training"
        self._progress.update(self._bar, description=label, completed=done, total=total, visible=done < total)

    def on_saved(self, round_number: int) -> None:
        self.round_saved = round_number

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        self._show(metrics, ("-",) * (3 + self._private))

    def on_time_left(self, seconds: float) -> None:
        self._left = seconds

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        spent = (f"{metrics['privacy/epsilon']:.3f}",) if self._private else ()
        self._show(metrics, (*spent, size(metrics["bytes/up"]), size(metrics["bytes/down"]), duration(self._left)))

    def _show(self, metrics: Mapping[str, Any], others: tuple[str, ...]) -> None:
        from polyrank.tasks.metric import TEST

        cells = (
            f"{metrics['round']:>{len(str(self._rounds))}}/{self._rounds}",
            *(metric.number(metrics.get(f"{TEST}{metric.name}")) for metric in self._curves),
            *others,
        )
        self._progress.console.print(self._row(cells), markup=False)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.stop()
        from polyrank.tasks.metric import TEST

        first, others = self._metrics[0], self._metrics[1:]
        best = first.number(summary[f"best/{first.name}"])
        rows = (
            (f"test {first.title}", first.number(summary[f"{TEST}{first.name}"])),
            (f"best test {first.title}", f"{best} in round {summary['best/round']}"),
            *(
                (("before the first round", first.number(summary[key])),)
                if (key := f"untrained/{first.name}") in summary
                else ()
            ),
            (self._baseline, first.number(summary[f"constant/{first.name}"])),
            *((f"test {metric.title}", metric.number(summary[f"{TEST}{metric.name}"])) for metric in others),
            ("sent up / down", f"{size(summary['bytes/up'])} / {size(summary['bytes/down'])}"),
            ("clients left out", str(summary["dropped"])),
            *(
                (("epsilon", f"{summary['privacy/epsilon']:.3f} at delta {summary['privacy']['delta']:.2g}"),)
                if "privacy" in summary
                else ()
            ),
            ("time", duration(time.monotonic() - self._start)),
            *((("ended early", self._why_early(summary)),) if "stopped_early" in summary else ()),
            *((("tokens per second", f"{summary['tokens/second']:,.0f}"),) if "tokens/second" in summary else ()),
            *((("most memory", size(summary["memory/peak"])),) if summary.get("memory/peak") else ()),
        )
        made = table(f"\n{summary['method']}, {summary['rounds']} rounds, {summary['clients']} clients", "", "")
        made.show_header = False
        for row in rows:
            made.add_row(*row)
        out.print(made)
        if groups := summary.get("rank_groups"):
            titles = (metric.title for metric in self._metrics)
            made = table("\nwhat each rank group is sent", "rank", "clients", *titles)
            for group in groups:
                scores = (metric.number(group[metric.name]) for metric in self._metrics)
                made.add_row(str(group["rank"]), str(group["clients"]), *scores)
            out.print(made)

        for line in summary.get(NOT_TRACKED, ()):
            out.print(f"not tracked: {line}", markup=False, soft_wrap=True)
        if booked := summary.get("time"):
            made = table("\nwhere the time went", "", "seconds", "share")
            for phase, seconds in booked.items():
                made.add_row(phase, f"{seconds:.1f}", percent(seconds / max(sum(booked.values()), 1e-9)))
            out.print(made)

    def _why_early(self, summary: Mapping[str, Any]) -> str:
        last, title, many = summary["stopped_early"], self._metrics[0].title, "s" if self._patience != 1 else ""
        return f"after round {last} of {self._rounds}: no better test {title} in {self._patience} evaluation{many}"

    @property
    def _curves(self) -> Sequence[Metric]:
        """What is shown round by round."""
        return [metric for metric in self._metrics if metric.curve]

    def stop(self) -> None:
        """Take away what moves."""
        self._waiting.stop()
        if self._progress.live.is_started:
            self._progress.stop()

    def _show_header(self) -> None:
        titles = [metric.title for metric in self._curves] + (["epsilon"] if self._private else [])
        self._progress.console.print(self._row(("round", *titles, "up", "down", "time left")), style="bold")

    @staticmethod
    def _row(cells: tuple[str, ...]) -> str:
        return "  ".join(f"{cell:>11}" for cell in cells)
