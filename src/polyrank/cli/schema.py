"""``polyrank schema``: the configuration's keys for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out
from polyrank.core.errors import ConfigError


def schema(
    file: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it to this file.")] = None,
    where: Annotated[bool, typer.Option("--where", help="Print where the package has it as a file.")] = False,
) -> None:
    """Print the JSON schema of the configuration, by which editors complete and check TOML files."""
    from polyrank.config.schema import FILE, text

    if file is not None and where:
        raise ConfigError("--out and --where are both given; expected one of them")
    if where:
        out.print(str(FILE), markup=False, soft_wrap=True)
    elif file is None:
        out.print(text(), end="", markup=False, soft_wrap=True)
    else:
        try:
            file.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
        out.print(f"written to {file}", markup=False, soft_wrap=True)
