"""What was once measured to be fast is remembered, so that the same work is computed in the same way the next time.

Timings differ from one start to the next, and with them what `auto` comes to, and the last bits of every number. So a
choice is kept by what it depends on, in a folder of the user's: one JSON file each.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError

from polyrank.config import TrainingConfig
from polyrank.config.sections import MEASURED
from polyrank.core import cache
from polyrank.training.tuning.saved import free_memory

log = logging.getLogger(__name__)

FREE = 0.6
"""Of the memory that was free when a choice was measured; with less it is measured anew."""


@dataclass(frozen=True)
class Remembered:
    """A choice.

    Args:
        chosen: keys of ``[training]`` that were ``auto`` -> their values.
        reason: why clients are not batched.
        of: what it depends on.
        free: bytes of memory that were free.
        when: in UTC, ISO 8601.
    """

    chosen: dict[str, Any]  # Any: plain JSON values
    reason: str
    of: dict[str, Any]
    free: Annotated[int, Field(ge=0, lt=2**63)]
    when: str


_FILE = TypeAdapter(Remembered)


def folder() -> Path | None:
    """Where choices are kept; None where they are not."""
    return cache.folder("choices")


def recall(training: TrainingConfig, of: Mapping[str, Any]) -> Remembered | None:
    """What was measured for such work; None where nothing is to be chosen, or too little memory is free for it."""
    where = folder()
    found = _usable(where / _name(of), training, of) if where and _open(training) else None
    if found is not None and _free() < FREE * found.free:
        log.info("less memory is free than when the choice was made, so it is made anew, for this time")
        return None
    return found


def filled(training: TrainingConfig, found: Remembered) -> TrainingConfig:
    """The section with what was chosen in the place of ``auto``, and in that of an engine that cannot be had."""
    names = _open(training) | ({"engine"} if found.reason else set())
    chosen = {name: value for name, value in found.chosen.items() if name in names}
    return TrainingConfig.model_validate({**training.model_dump(), **chosen})


def keep(training: TrainingConfig, of: Mapping[str, Any], chosen: TrainingConfig, reason: str) -> None:
    """Remember what ``auto`` came to, unless something usable is there; a folder that cannot be written is no error."""
    where, names = folder(), _open(training)
    if where is None or not names or _usable(where / _name(of), training, of):
        return
    names |= {"engine"} if reason else set()
    values = {name: value for name, value in chosen.model_dump(mode="json").items() if name in names}
    made = Remembered(values, reason, dict(of), _free(), datetime.now(UTC).isoformat(timespec="seconds"))
    cache.write(where / _name(of), asdict(made))


def everything() -> list[Remembered]:
    """All that is remembered, the oldest first."""
    return sorted(filter(None, map(_read, _files())), key=lambda one: one.when)


def forget() -> int:
    """Remove all of it; how many there were."""
    paths = _files()
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _files() -> list[Path]:
    where = folder()
    return sorted(path for path in where.glob("*.json") if path.is_file()) if where else []


def _open(training: TrainingConfig) -> set[str]:
    """Keys that are measured."""
    return {name for name in MEASURED if getattr(training, name) == "auto"}


def _name(of: Mapping[str, Any]) -> str:
    return f"{cache.digest(of)}.json"


def _usable(path: Path, training: TrainingConfig, of: Mapping[str, Any]) -> Remembered | None:
    """A file's choice, if it is of this work and says what is valid."""
    found = _read(path)
    if found is None or found.of != json.loads(json.dumps(of)):
        return None
    try:
        return None if _open(filled(training, found)) else found
    except ValidationError:
        return None


def _read(path: Path) -> Remembered | None:
    """A file's choice; None where there is none that can be read."""
    try:
        return _FILE.validate_python(cache.read(path))
    except ValidationError:
        return None


def _free() -> int:
    return free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
