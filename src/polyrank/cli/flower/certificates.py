"""``polyrank flower certificates``: an authority, the server's certificate and the nodes' keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out


def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; no file is ever replaced.")],
    *,
    nodes: Annotated[int, typer.Option("--nodes", help="Key pairs, one per SuperNode.")] = 1,
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="Name or address of the server, beside localhost and 127.0.0.1."),
    ] = None,
    days: Annotated[int, typer.Option("--days", help="For which the certificates are valid.")] = 365,
) -> None:
    """Make a CA, the server's certificate and node keys for a trial of a deployment."""
    from polyrank.site.certificates import make

    written = make(folder, nodes, hosts or [], days)
    out.print(
        f"{len(written)} files in {folder}\n"
        f"everyone: {folder / 'ca.crt'}\n"
        f"the server alone: {folder / 'server.crt'}, {folder / 'server.key'}, and the nodes' public keys (*.pub)\n"
        f"each node alone: its private key ({folder / 'node0'}, ...)\n"
        f"nobody, once you are done: {folder / 'ca.key'}",
        markup=False,
        soft_wrap=True,
    )
