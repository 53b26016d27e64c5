"""Options that several commands have, each with its words."""

from __future__ import annotations

from typing import Annotated

import typer

from polyrank.cli import completing

MOST = 256
"""Tokens of an answer where nobody says how many."""

Client = Annotated[
    str | None,
    typer.Option("--client", metavar="NAME", help="This client's own model, where B or the head stays with clients."),
]
BaseName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="The base, if it is not where the folder says.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The most tokens of an answer.")]
Portable = Annotated[
    bool | None,
    typer.Option(
        "--portable/--exact-ranks",
        help="One rank and scale, as servers such as vLLM need (default of models that write), or as they are.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value, e.g. training.lr=1e-3; it may come several times.",
        autocompletion=completing.settings,
    ),
]
