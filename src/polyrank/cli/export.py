"""``polyrank export``: a run's adapter for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out, size
from polyrank.core.errors import RunFolderError


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist or be empty.")],
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Best approximation of this rank.")] = None,
    client: Annotated[
        str | None,
        typer.Option(
            "--client", metavar="NAME", help="This client's own model, where B or the head stays with clients."
        ),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="The whole model with the adapter merged in.")] = False,
) -> None:
    """Write what a run learned (also an unfinished one) as a PEFT folder of any rank, or as the merged model."""
    from polyrank.hf.load import load_base
    from polyrank.hf.merged import write_merged
    from polyrank.hf.peft import folder as peft_folder
    from polyrank.runs import checkpoint
    from polyrank.runs.folder import RunFolder, disk_errors
    from polyrank.runs.models import exported
    from polyrank.runs.resume import check_model

    source = RunFolder(run)
    target = source.target()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not empty; choose another folder with --out")
    state = checkpoint.load(source.checkpoint)
    whole = exported(state, source.read_config(), client)
    adapter = whole if rank is None else whole.truncated(rank)
    if merged:
        check_model(source)
    with disk_errors(folder):
        if merged:
            write_merged(folder, load_base(target.model, target.labels), adapter, target.labels)
        else:
            peft_folder.write(folder, adapter, target)
    what = ("merged model" if merged else f"adapter of rank {adapter.rank}") + (f" of {client}" if client else "")
    written = sum(path.stat().st_size for path in folder.iterdir())
    out.print(f"{what} after round {state.round}: {folder} ({size(written)})", markup=False, soft_wrap=True)
    if target.model.quantization != "none":
        how = "it is merged into the base as it is" if merged else "it belongs to the base as it is, or quantised"
        out.print(f"trained over the base in {target.model.quantization}; {how}", markup=False, soft_wrap=True)
