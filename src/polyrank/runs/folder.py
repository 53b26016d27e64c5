"""A run on disk: configuration, metrics, checkpoint, adapter. The only place that knows the names of its files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import CodecError, ConfigError, RunFolderError
from polyrank.core.files import read_whole, write_whole
from polyrank.runs import lines, shapes
from polyrank.runs.agreement import Asked, Record
from polyrank.tasks import Task, task
from polyrank.tasks.registry import AUTO, options_of

if TYPE_CHECKING:
    from polyrank.hf.peft.folder import Target

FIRST = "classification"
"""The task of runs that are older than ``[task]``."""
OWN_FILES = (
    *("config.toml", "requested.toml", "metrics.jsonl", "clients.json", "run.json"),
    *("samples.json", "summary.json", "secret"),
)
LOCK = ".lock"
"""Held by the process that writes the folder."""
SCRATCH = {LOCK, *(f".{name}.writing" for name in OWN_FILES)}
"""What a run that was killed may leave of a file that it wrote; a folder with nothing else is as good as empty."""
OWN_FOLDERS = ("checkpoint", "adapter", "events")


def folders_in(path: Path, marks: Sequence[str]) -> list[Path]:
    """A folder and those below it that hold a configuration and, of a run, one of the files ``marks``."""
    folders = sorted(file.parent for file in path.rglob("config.toml")) if path.is_dir() else []
    return [folder for folder in folders if any((folder / name).is_file() for name in marks)]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    ``config.toml`` is the resolved configuration, ``requested.toml`` what was asked for; ``metrics.jsonl`` has a line
    per round, after one of round 0, the base as it is, where the task is to write; ``samples.json`` what was written
    before and after; ``clients.json`` says who has which rank, group, number of examples and validation loss;
    ``run.json`` the task, labels, digests of data and model, versions and machine; ``summary.json`` what came out;
    ``secret`` is there while a private run is under way.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return self.config.is_file()

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a folder that a new run must not be written to; nothing is changed.

        Raises:
            RunFolderError: it holds a run and ``overwrite`` is false, or it holds something else.
        """
        if self.exists():
            if not overwrite:
                raise RunFolderError(
                    f"{self.path} holds another run; continue it with --resume, replace it with --overwrite, or "
                    "choose another folder with --out"
                )
        elif self.path.exists() and not (self.path.is_dir() and {path.name for path in self.path.iterdir()} <= SCRATCH):
            raise RunFolderError(f"{self.path} exists and is no run folder; choose another folder with --out")

    def create(self, *, overwrite: bool) -> None:
        """Make the folder for a new run; an old run's own files are deleted, and nothing else.

        Raises:
            RunFolderError: as `check_free`, or the folder cannot be made.
        """
        self.check_free(overwrite=overwrite)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for name in OWN_FOLDERS:  # a checkpoint that cannot be deleted would pass for one of the new run
                if (self.path / name).exists():
                    shutil.rmtree(self.path / name)
            for name in SCRATCH - {LOCK}:
                (self.path / name).unlink(missing_ok=True)
            for name in reversed(OWN_FILES):  # config.toml last: without it this is no run folder that can be replaced
                (self.path / name).unlink(missing_ok=True)

    def write_config(self, asked: Asked) -> None:
        """Write what was resolved, which makes this a run folder, and what was asked for."""
        self._write("config.toml", configuration.dump(asked.resolved))
        self._write("requested.toml", configuration.dump(asked.requested))

    def read_config(self) -> Config:
        """The resolved configuration.

        Raises:
            RunFolderError: there is no run here.
        """
        if not self.exists():
            raise RunFolderError(f"{self.path} is no run folder: it has no config.toml")
        return configuration.load(self.config)

    def read_asked(self) -> Asked:
        """What was asked for and what it was resolved to.

        Raises:
            RunFolderError: there is no run here, or one of an earlier version, which did not keep what was asked for.
        """
        resolved = self.read_config()
        path = self.path / "requested.toml"
        if not path.is_file():
            raise RunFolderError(self._earlier("what was asked for (it has no requested.toml)"))
        return Asked(configuration.load(path), resolved)

    def record(self) -> Record:
        """What the run was made with.

        Raises:
            RunFolderError: there is no run here, one that had saved nothing, or one of an earlier version, which did
                not keep this.
        """
        if not (self.path / "run.json").is_file():
            raise RunFolderError(
                f"{self.path} has no run.json, and there is no checkpoint: the run stopped before it had saved "
                "anything; start anew with --overwrite"
            )
        about = self.read_json("run")
        if not isinstance(digests := about.get("digests"), dict):
            raise RunFolderError(self._earlier("what its data and model held (its run.json has no digests)"))
        return Record(self.path, digests, self.read_config(), about.get("python", "unknown"))

    def _earlier(self, what: str) -> str:
        return (
            f"{self.path} holds a run of an earlier PolyRank, which did not keep {what}, so it cannot be told whether "
            "that agrees; start a new run with another --out, or replace this one: polyrank run --overwrite"
        )

    def write_json(self, name: str, value: Any) -> None:  # Any: plain JSON values
        """Write ``name.json``, whole or not at all; null stands for a number that is not finite."""
        self._write(f"{name}.json", json.dumps(plain(value), indent=1) + "\n")

    def read_json(self, name: str) -> Any:  # Any: plain JSON values
        """Read ``name.json``.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        path = self.path / f"{name}.json"
        try:
            value = json.loads(read_whole(path))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path} cannot be read: {error}; is {self.path} a run folder?") from None
        if not isinstance(value, dict):
            raise RunFolderError(f"{path} holds a {type(value).__name__}; expected an object: put back what was there")
        try:
            shapes.check(name, value)
        except CodecError as error:
            raise RunFolderError(f"{path} is damaged: {error}; put back what was there") from None
        return value

    def remove_json(self, name: str) -> None:
        """Remove ``name.json``, if it is there."""
        with disk_errors(self.path / f"{name}.json"):
            (self.path / f"{name}.json").unlink(missing_ok=True)

    def task(self) -> Task:
        """What was learned.

        Raises:
            RunFolderError: there is no run here.
            ConfigError: there is no such task in this version.
        """
        return task_of(self.read_json("run"), self.read_config())

    def target(self) -> Target:
        """What the run's adapter belongs to.

        Raises:
            RunFolderError: there is no run here.
        """
        from polyrank.hf.peft.folder import Target  # imports transformers, which readers of metrics do without

        about, config = self.read_json("run"), self.read_config()
        outputs = about.get("outputs", about["labels"])
        named, options = name_of(about, config), options_of(task_of(about, config))
        return Target(config.model, tuple(outputs), tuple(about["head_modules"]), named, options)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one round's line."""
        with disk_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the round's checkpoint follows, and must not outlive its line

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rounds' lines, from the first round on; a last line that was cut off by a crash is left out.

        Raises:
            RunFolderError: a line is damaged, missing, or there twice: figures over the rounds would be wrong.
        """
        return [line for line in self.read_lines() if line["round"] > 0]

    def read_untrained(self) -> dict[str, Any] | None:
        """The line of round 0, of the base as it is; None where that was not measured.

        Raises:
            RunFolderError: as `read_metrics`.
        """
        return next((line for line in self.read_lines() if line["round"] == 0), None)

    def read_lines(self) -> list[dict[str, Any]]:
        """All lines in their order, the first of round 0 or 1.

        Raises:
            RunFolderError: as `read_metrics`.
        """
        return lines.read(self.metrics, self._first())

    def _first(self) -> int | None:
        """The round of the first line, by what was learned; None where that is not known."""
        try:
            return 0 if self.task().writes else 1
        except (RunFolderError, ConfigError):
            return None

    def write_metrics(self, rounds: Sequence[Mapping[str, Any]]) -> None:
        """Write the rounds' lines anew, after that of round 0 if there is one, whole or not at all."""
        untrained = self.read_untrained()
        written = [*([untrained] if untrained else []), *rounds]
        self._write("metrics.jsonl", "".join(json.dumps(plain(line)) + "\n" for line in written))

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        with disk_errors(path):
            write_whole(path, text, self.path / f".{name}.writing")


def name_of(about: Mapping[str, Any], config: Config) -> str:  # Any: JSON values
    """The task's name, as `task_of` finds it."""
    return str(about.get("task", FIRST if config.task.name == AUTO else config.task.name))


def task_of(about: Mapping[str, Any], config: Config) -> Task:  # Any: JSON values
    """What a run has learned, by its run.json, which in an earlier version did not say it, and its configuration.

    Raises:
        ConfigError: there is no such task in this version.
    """
    named = name_of(about, config)
    return task(config.model_copy(update={"task": config.task.model_copy(update={"name": named})}))


def plain(value: Any) -> Any:  # Any: plain JSON values
    """JSON has no NaN and no infinity: null stands for a measurement that is not finite."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say which file could not be written, and that what was written before is still there.

    Raises:
        RunFolderError: instead of the OSError of a full, read-only or missing disk, or what safetensors makes of it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}; what was saved before is "
            "untouched. Make room or mend it, then run again, with --resume if a round was saved"
        ) from error
