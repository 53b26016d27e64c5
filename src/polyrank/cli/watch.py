"""``polyrank watch``: the page of a report that grows while runs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import errors, out


def watch(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some; a run may begin later."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; by default one that is free.")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Show runs while they go on, as polyrank report does, on this machine alone, until Ctrl-C. It writes nothing."""
    from polyrank.report.live.server import Server, serve

    def ready(url: str) -> None:
        out.print(f"page: {url}", markup=False, soft_wrap=True)
        if open_page:
            import webbrowser

            webbrowser.open(url)

    serve(Server(folders, port), ready)
    errors.print("stopped watching; the runs go on", soft_wrap=True)
