"""``polyrank init``: a commented configuration for a user's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polyrank.cli import completing
from polyrank.cli.console import out
from polyrank.cli.options import Overrides
from polyrank.core.errors import ConfigError
from polyrank.core.text import one_line


def init(
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="csv, tsv, jsonl, parquet, a folder of txt, or a Hub data set; without it the embedded one.",
        ),
    ] = None,
    *,
    file: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path("study.toml"),
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="NAME",
            help="classification or causal-lm; by default what the columns say.",
            autocompletion=completing.tasks,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A Hugging Face id or a folder; or the embedded one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    overrides: Overrides = None,
) -> None:
    """Write a commented study.toml for your data, of which columns, labels and lengths are looked at; it can be run."""
    given: dict[str, dict[str, Any]] = {}  # Any: TOML values
    for section, key, value in (("data", "train", data), ("task", "name", task), ("model", "name", model)):
        if value is not None:
            given[section] = {key: value}
    _check_free(file, data, force=force)
    from polyrank import config as configuration
    from polyrank.core.files import write_whole
    from polyrank.federation.planning.beginning import begin

    asked = configuration.override(configuration.parse(given, "polyrank init"), overrides or [])
    written = begin(asked, file.name)
    text = written.toml()
    try:
        write_whole(file, text, file.with_name(f".{file.name}.writing"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}; name another one with --out") from None
    for note in written.head:
        out.print(one_line(note, 2000), markup=False, soft_wrap=True)
    out.print(f"written to {file}", markup=False, soft_wrap=True)


def _check_free(file: Path, data: str | None, *, force: bool) -> None:
    """Refuse a file that is there, and the data in any case.

    Raises:
        ConfigError: it is.
    """
    source = Path(data or "").expanduser()
    if data and file.exists() and source.exists() and file.samefile(source):
        raise ConfigError(f"--out is {file}, which holds the data; name another file, such as study.toml")
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; replace it with --force, or name another file with --out")
