"""``polyrank site``: the daemon of a participant of a deployed federation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli.console import errors
from polyrank.cli.options import Overrides
from polyrank.core.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.config import Config
    from polyrank.federation.site import Site


def site(
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    *,
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket; its directory must be yours alone (0700).")],
    overrides: Overrides = None,
) -> None:
    """Hold this site's base and data, and train on request over a Unix socket, until SIGTERM or Ctrl-C."""
    from polyrank import config as configuration
    from polyrank.site.daemon import serve

    chosen = _one_process(configuration.load(config, overrides or []))
    serve(lambda: _load(chosen), socket.absolute(), _say)


def _one_process(config: Config) -> Config:
    training = config.training
    for name, alone in (("workers", ("auto", 1)), ("lanes", ("auto", 1)), ("cluster", ("none",))):
        if (asked := getattr(training, name)) not in alone:
            raise ConfigError(
                f"training.{name} is {asked}; a site trains one client at a time, in the daemon itself: leave it "
                "out, and start a daemon per GPU"
            )
    return config.model_copy(update={"training": training.model_copy(update={"workers": 1, "lanes": 1})})


def _load(config: Config) -> Site:
    from polyrank.federation.loading import participant

    site = participant(config)
    examples = sum(len(held) for held in site.examples.values())
    resolved = site.config
    _say(
        f"{resolved.model.name} in {resolved.training.precision} on {site.resident.device}; {examples} examples "
        f"of {resolved.data.train}, {len(site.examples)} clients"
    )
    return site


def _say(line: str) -> None:
    errors.print(line, markup=False, soft_wrap=True)
    sys.stderr.flush()
