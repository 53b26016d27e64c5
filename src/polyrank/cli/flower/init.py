"""``polyrank flower init``: a ready Flower app."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out
from polyrank.cli.options import Overrides
from polyrank.core.errors import FlowerError


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    *,
    overrides: Overrides = None,
    run: Annotated[str, typer.Option("--out", help="Run folder on the server.")] = "runs/flower",
) -> None:
    """Write a Flower app for a federation: its settings, and the commands to run it."""
    from polyrank import config as configuration

    if find_spec("flwr") is None:
        raise FlowerError("Flower is not installed; pip install 'polyrank[flower]'")
    from polyrank.flower.app_folder import write

    write(folder, configuration.load(config, overrides or []), run)
    out.print(f"{folder}: a Flower app; {folder / 'README.md'} has the commands", markup=False, soft_wrap=True)
