"""``polyrank advise``: which method, ranks and learning rate to take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import duration, errors, out, print_json, table
from polyrank.cli.options import Json, Overrides


def advise(
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    overrides: Overrides = None,
    with_pilot: Annotated[
        bool, typer.Option("--pilot/--no-pilot", help="Try some methods for a few rounds, which takes minutes.")
    ] = True,
    rounds: Annotated[int, typer.Option(help="Of each candidate of the pilot.")] = 4,
    as_json: Json = False,
) -> None:
    """Say in three sentences which method, ranks and learning rate to take, on what evidence, and what it costs.

    A pilot compares on a validation set that it holds out of the training data; the test set is not looked at, and
    nothing is written. Without one the advice follows from the configuration and from what paper/FINDINGS.md found.
    """
    from polyrank import config as configuration
    from polyrank.advice import advise as advised

    given = configuration.load(config, overrides or [])
    found = advised(
        given, with_pilot=with_pilot, rounds=rounds, tell=lambda text: errors.print(text, soft_wrap=True, markup=False)
    )
    if as_json:
        print_json(asdict(found))
        return
    if found.trials:
        numbers = [f"round {number}" for number in range(1, len(found.trials[0].losses) + 1)]
        shown = table(None, "validation loss, nats", *numbers, "took")
        for trial in found.trials:
            losses = (f"{loss:.3f}" for loss in trial.losses)
            shown.add_row(str(trial.candidate), *losses, duration(trial.seconds))
        out.print(shown)
    for sentence in found.sentences:
        out.print(sentence, markup=False, soft_wrap=True)
