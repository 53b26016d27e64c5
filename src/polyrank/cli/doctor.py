"""``polyrank doctor``: what this machine can do."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from polyrank.cli.console import out, print_json, size, table
from polyrank.cli.options import Json


def doctor(
    choices: Annotated[
        bool, typer.Option("--choices", help="List what was measured before and is remembered, and for what.")
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Forget it, so that it is measured anew.")] = False,
    as_json: Json = False,
) -> None:
    """Check cores, memory, bfloat16, GPU, the Hub and optional packages; nothing is changed but by --forget."""
    if forget:
        _forget()
        return
    if choices:
        _choices(as_json)
        return
    found = examine()
    if as_json:
        print_json(found)
        return
    made = table(None, "what", "found")
    made.columns[1].justify = "left"
    for name, value in found.items():
        made.add_row(name, value if isinstance(value, str) else _words(value))
    out.print(made)


def _forget() -> None:
    from polyrank.training.tuning import remembered

    out.print(f"forgotten: {remembered.forget()} choices in {remembered.folder()}", markup=False, soft_wrap=True)


def _choices(as_json: bool) -> None:
    """What is remembered, the oldest first."""
    from polyrank.hf.digest import CONFIGURATION
    from polyrank.training.tuning import remembered

    found = remembered.everything()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    made = table(None, "when", "model", "work", "chosen")
    for one in found:
        work = {name: one.of.get(name, {}) for name in ("model", "training", "work")}
        made.add_row(
            one.when,
            str(work["model"].get(CONFIGURATION, "")),
            f"{work['work'].get('cohort')} clients of {work['work'].get('examples')} examples, batches of "
            f"{work['training'].get('batch_size')}, rank {work['work'].get('rank')}",
            ", ".join(f"{name} {value}" for name, value in one.chosen.items()),
        )
    out.print(made)
    out.print(f"{len(found)} choices in {remembered.folder() or 'no folder'}", markup=False, soft_wrap=True)


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, measured now; a few seconds."""
    import torch

    from polyrank.core import limits
    from polyrank.core.machine import about_this_machine, gflops
    from polyrank.core.threads import settle
    from polyrank.training.tuning import remembered

    about = about_this_machine()
    rates = {name: gflops(getattr(torch, name)) for name in ("float32", "bfloat16")}
    return {
        "python": about["python"],
        "cores": f"{about['cores']}, of which {limits.cores()} are ours; torch uses {about['threads']} threads",
        "threads wait": settle(),
        "memory": f"{size(psutil.virtual_memory().total)}, of which {size(limits.memory())} are ours; "
        f"{size(limits.free_memory())} free",
        "choices remembered": f"{len(remembered.everything())} in {remembered.folder() or 'no folder'}",
        "free disk here": size(shutil.disk_usage(Path.cwd()).free),
        "GPU": about["gpu"] or "none",
        "matrix products": f"float32 {rates['float32']:.0f}, bfloat16 {rates['bfloat16']:.0f} GFLOP/s",
        "bfloat16 pays": rates["bfloat16"] > rates["float32"],
        "Hugging Face Hub": _hub(),
        "trackers": ", ".join(n for n in ("tensorboard", "wandb", "mlflow", "trackio") if find_spec(n)) or "none",
        "Flower": "installed" if find_spec("flwr") else "not installed",
        "quantised bases": "bitsandbytes" if find_spec("bitsandbytes") else "not installed",
        **{name: version or "not installed" for name, version in about["versions"].items()},
    }


def _words(value: bool) -> str:
    return "yes" if value else "no"


def _hub() -> str:
    """Whether models and data sets can be downloaded."""
    from huggingface_hub import constants

    from polyrank.core.hub import reachable

    if constants.HF_HUB_OFFLINE:
        return "switched off (HF_HUB_OFFLINE); local models and files work"
    return "reachable" if reachable() else "not reachable; local models and files work"
