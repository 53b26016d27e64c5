"""``polyrank flower``: what a federation on Flower needs around it."""

from __future__ import annotations

import typer

from polyrank.cli.flower import certificates, init

app = typer.Typer(help="Federations on Flower: what they need around them.", no_args_is_help=True)
app.command("certificates")(certificates.certificates)
app.command("init")(init.init)
