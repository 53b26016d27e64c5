"""All that a run checks before anything is trained or written: folder, checkpoint, trackers, data, model."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.federation.server import Server, build
from polyrank.runs import checkpoint, secret
from polyrank.runs.agreement import Asked, fingerprint
from polyrank.runs.folder import RunFolder
from polyrank.runs.resume import check_goes_on
from polyrank.runs.trackers import Tracker, trackers
from polyrank.tasks import settled


@dataclass(frozen=True, eq=False)
class Opened:
    """A run that can begin, or go on.

    Args:
        folder: of the run.
        requested: what was asked for.
        server: with data and model loaded and nothing open; whoever has it closes it.
        state: where it goes on; None where it begins.
        trackers: that were asked for.
    """

    folder: RunFolder
    requested: Config
    server: Server
    state: ServerState | None
    trackers: Sequence[Tracker]


def check_ready(opened: Opened) -> None:
    """Refuse what a run would refuse at the moment that it begins to write; nothing is written.

    Raises:
        RunFolderError: a run that is to go on is of other data or classes or longer than asked for, or the folder
            cannot be made here.
    """
    if opened.state is not None:
        check_goes_on(opened.server, opened.folder, opened.state)
    path = opened.folder.path.absolute()
    there = next(above for above in (path, *path.parents) if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise RunFolderError(f"{opened.folder.path} cannot be written: {there} is no folder, or not yours to write to")


def opening(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    requested: Config | None = None,
) -> Opened:
    """Check and load everything; arguments as of `polyrank.runs.runner.run`.

    Raises:
        PolyRankError: the configuration, the data, the model or the folder does not fit; nothing was written.
    """
    folder = RunFolder(Path(out))
    config, requested = settled(config), settled(requested or config)
    asked, record, state = Asked(requested, config), None, None
    if resume:  # a missing or foreign checkpoint is an error before the work, not after
        asked, record = folder.read_asked().agreed(asked.requested, folder.path), folder.record()
        state = checkpoint.load(folder.checkpoint, fingerprint(asked.resolved, record.digests))
    else:
        folder.check_free(overwrite=overwrite)
    output = config.output
    told = trackers(output.trackers, output.project, folder.path)
    check = partial(record.check, config=asked.resolved, python=platform.python_version()) if record else None
    server = build(asked.resolved, profile=profile, check=check, secret=secret.read(folder.path) if resume else "")
    return Opened(folder, asked.requested, server, state, told)
