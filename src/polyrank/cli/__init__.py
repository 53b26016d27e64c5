"""The command line: one file per command, `main` for errors and exit codes."""

from __future__ import annotations

import logging
import sys

import click
import typer

from polyrank.cli import (
    advise,
    compare,
    data,
    doctor,
    evaluate,
    export,
    flower,
    generate,
    init,
    inspect,
    merge,
    methods,
    plan,
    report,
    run,
    schema,
    site,
    watch,
)
from polyrank.cli.console import errors
from polyrank.core.errors import PolyRankError
from polyrank.core.text import lines

app = typer.Typer(
    name="polyrank",
    help="Federated LoRA fine-tuning in which every client has a rank of its own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("data")(data.data)
app.command("plan")(plan.plan)
app.command("advise")(advise.advise)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("watch")(watch.watch)
app.command("merge")(merge.merge)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("methods")(methods.methods)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)
app.command("site")(site.site)
app.add_typer(flower.app, name="flower")


def _version(value: bool) -> None:  # the signature that Typer calls
    if value:
        import polyrank

        typer.echo(f"polyrank {polyrank.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),  # noqa: ARG001  # read in main
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),  # noqa: ARG001
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 wrong use or bad input, 1 a fault of ours, 130 interrupted."""
    debug = "--debug" in sys.argv
    try:
        code = app(prog_name="polyrank", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except click.exceptions.Abort:
        code = 130
    except PolyRankError as error:
        if debug:
            raise
        errors.print(f"error: {lines(str(error))}", markup=False, highlight=False, soft_wrap=True)
        code = 2
    except Exception as error:
        if debug:
            raise
        errors.print(
            f"internal error: {type(error).__name__}: {lines(str(error))} (a fault of PolyRank; run again with: "
            "polyrank --debug COMMAND, and please report the traceback)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
