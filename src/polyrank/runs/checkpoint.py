"""A `ServerState` on disk: written atomically after each round, the previous one kept.

``checkpoint/round-00007/`` holds ``tensors.safetensors`` and ``state.json``, which carries a checksum of both and the
fingerprint of the configuration. A folder appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyrank.core import codec
from polyrank.core.errors import CodecError, RunFolderError
from polyrank.core.files import read_whole
from polyrank.core.state import ServerState

log = logging.getLogger(__name__)

FORMAT = 3
KEPT = 2


def save(folder: Path, state: ServerState, fingerprint: str) -> Path:
    """Write the state of ``state.round`` and delete all but the last two rounds.

    Raises:
        OSError: the disk is full or read-only; the checkpoints that were there are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"round-{state.round:05d}"
    writing = folder / f".writing-{state.round:05d}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        header, named = codec.encode(state)
        tensors = codec.to_bytes(named)
        _write(writing / "tensors.safetensors", tensors)
        about = {"format": FORMAT, "configuration": fingerprint, "state": header}
        text = json.dumps({"sha256": _checksum(about, tensors), **about}, indent=1)
        _write(writing / "state.json", text.encode())
        _sync(writing)
        shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be in the way: its round was run again
        writing.rename(target)
        _sync(folder)
    except OSError:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    for old in _rounds(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(folder: Path, fingerprint: str | None = None) -> ServerState:
    """The newest state that is whole; a damaged one is skipped with a warning, and the previous one is used.

    Raises:
        RunFolderError: there is none, none is whole, or it belongs to another configuration.
    """
    rounds = _rounds(folder)
    problems: list[str] = []
    for path in rounds:
        try:
            state, found = _read(path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, CodecError) as error:
            problems.append(f"{path.name}: {error}")
            log.warning("the checkpoint %s is damaged (%s); trying the previous one", path.name, error)
            continue
        if fingerprint is not None and found != fingerprint:
            raise RunFolderError(
                f"the checkpoint {path} belongs to another configuration, or to other data, than this run's "
                "config.toml and run.json; use the folder it came from, or start anew with --overwrite"
            )
        return state
    if problems:
        raise RunFolderError(f"no checkpoint in {folder} is whole ({'; '.join(problems)}); start anew with --overwrite")
    raise RunFolderError(
        f"there is no checkpoint in {folder}: the run stopped before it had saved anything; start anew with --overwrite"
    )


def _rounds(folder: Path) -> list[Path]:
    """The folders of saved rounds, newest first."""
    numbers = {path: path.name.removeprefix("round-") for path in folder.glob("round-*")}
    return sorted((p for p, n in numbers.items() if n.isdecimal()), key=lambda p: int(numbers[p]), reverse=True)


def _checksum(about: Mapping[str, Any], tensors: bytes) -> str:
    """A checksum of description and tensors: a changed round or rank must not pass for a whole checkpoint either."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    found.update(tensors)
    return found.hexdigest()


def _read(path: Path) -> tuple[ServerState, str]:
    """State and fingerprint of one checkpoint; ValueError, KeyError, CodecError or OSError if it is not whole."""
    about = json.loads(read_whole(path / "state.json"))
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']}, expected {FORMAT}: another version of PolyRank wrote it")
    data = read_whole(path / "tensors.safetensors")
    if about.pop("sha256") != _checksum(about, data):
        raise ValueError("the checksum does not match")
    state = codec.decode(ServerState, {"memory": {}, **about["state"]}, codec.from_bytes(data))  # older ones have none
    return state, about["configuration"]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
