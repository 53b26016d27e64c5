"""``polyrank export``: a run's adapter for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli.console import out, size
from polyrank.cli.options import Client, Portable
from polyrank.core.errors import ConfigError, RunFolderError

DTYPES = ("float32", "bfloat16", "float16")


def export(  # noqa: PLR0917  # Typer's way to declare options
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist or be empty.")],
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Best approximation of this rank.")] = None,
    client: Client = None,
    merged: Annotated[bool, typer.Option("--merged", help="The whole model with the adapter merged in.")] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of --merged: float32 (the default), bfloat16 or float16.")
    ] = None,
    portable: Portable = None,
) -> None:
    """Write what a run learned (also an unfinished one) as a PEFT folder of any rank, or as the merged model."""
    if dtype is not None and not merged:
        raise ConfigError("--dtype is of --merged; an adapter is written in float32")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if merged and portable is not None:
        raise ConfigError("--portable and --exact-ranks are of adapters; a merged model has no ranks: leave them out")
    from polyrank.hf.load import load_base, load_tokenizer
    from polyrank.hf.merged import write_merged
    from polyrank.hf.peft import folder as peft_folder
    from polyrank.hf.peft.portable import portable as made_portable
    from polyrank.runs import checkpoint
    from polyrank.runs.folder import RunFolder, disk_errors
    from polyrank.runs.giving import beside
    from polyrank.runs.models import exported
    from polyrank.runs.resume import check_model

    source = RunFolder(run)
    target = source.target()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not empty; choose another folder with --out")
    state = checkpoint.load(source.checkpoint)
    whole = exported(state, source.read_config(), client)
    adapter = whole if rank is None else whole.truncated(rank)
    task = source.task()
    portable = (task.writes if portable is None else portable) and not merged
    given = made_portable(adapter) if portable else adapter
    base = None
    if merged or task.writes:
        check_model(source)
        base = load_base(target.model, target.labels, weights=merged)
    around = beside(task, load_tokenizer(target.model), base.model) if base is not None else None
    with disk_errors(folder):
        if merged:
            import torch

            assert base is not None
            kind: torch.dtype | None = getattr(torch, dtype) if dtype else None
            write_merged(folder, base, adapter, target.labels, beside=around, dtype=kind)
        else:
            peft_folder.write(folder, given, target, around)
    what = ("merged model" if merged else f"adapter of rank {adapter.rank}") + (f" of {client}" if client else "")
    what += f", filled up to {given.rank}" if given.rank > adapter.rank else ""
    written = sum(path.stat().st_size for path in folder.iterdir())
    out.print(f"{what} after round {state.round}: {folder} ({size(written)})", markup=False, soft_wrap=True)
    if target.model.quantization != "none":
        how = "it is merged into the base as it is" if merged else "it belongs to the base as it is, or quantised"
        out.print(f"trained over the base in {target.model.quantization}; {how}", markup=False, soft_wrap=True)
    if portable and task.writes:
        out.print(
            f"vllm serve {target.model.name} --enable-lora --max-lora-rank {given.rank} --lora-modules "
            f"{folder.name}={folder}",
            markup=False,
            soft_wrap=True,
        )
