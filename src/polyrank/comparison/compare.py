"""All runs of a comparison: finished ones are reused, an interrupted one goes on, the rest are started."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyrank.comparison.entries import Entry
from polyrank.config import Config
from polyrank.errors import RunFolderError
from polyrank.federation.listener import Listener
from polyrank.federation.run_folder import RunFolder, disk_errors, resolved_as
from polyrank.federation.runner import run
from polyrank.federation.scoring import Scores


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    entry: Entry
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.entry.name}, seed {self.seed}"


def plan(entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> list[Planned]:
    """All runs, seed by seed, so that a comparison that is stopped has whole seeds."""
    return [Planned(entry, seed, out / entry.name / f"seed-{seed}") for seed in seeds for entry in entries]


def compare(
    planned: Sequence[Planned],
    out: Path,
    *,
    listener: Callable[[Planned], Listener | None] = lambda _: None,
    scores: Scores | None = None,
) -> list[Path]:
    """Bring every run to its end and return their folders, in the order of the plan.

    Runs of the same seed have the same clients, data, cohorts and initial tensors, because all of these are drawn from
    the seed alone. Whatever is ``auto`` is measured once, by the first run, and clients whose scoring would be the same
    are scored once.

    Args:
        planned: of `plan`.
        out: the comparison's folder.
        listener: gives the listener of each run that is not finished yet.
        scores: results of scoring rounds, used and added to; give the same to several calls to share them.

    Raises:
        RunFolderError: a folder holds a run of another configuration; nothing of it is touched.
        PolyRankError: as `polyrank.federation.runner.run`.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for one in planned:  # all that can be refused is refused before the first run starts
        finished(one)
    scores = {} if scores is None else scores
    for one in planned:
        if finished(one):
            continue
        folder = RunFolder(one.folder)
        config = _settled(one.entry.seeded(one.seed), out)
        started = folder.exists() and any(folder.checkpoint.glob("*"))
        run(config, one.folder, resume=started, overwrite=not started, listener=listener(one), scores=scores)
        _settle(folder.read_config(), out)
    return [one.folder for one in planned]


def finished(one: Planned) -> bool:
    """Whether this run is done, to its last round.

    Raises:
        RunFolderError: the folder holds a run of another configuration.
    """
    folder = RunFolder(one.folder)
    if not folder.exists():
        return False
    saved = folder.read_config()
    wanted = resolved_as(one.entry.seeded(one.seed), saved)
    rounds = wanted.federation.rounds
    if not (one.folder / "summary.json").is_file():
        return False
    done: int = folder.read_json("summary")["rounds"]
    if done > rounds:
        raise RunFolderError(
            f"{one.folder} holds {done} finished rounds and federation.rounds is {rounds}; expected {done} or more, or "
            "another --out"
        )
    return done == rounds


SETTLED = "settled.json"
_AUTO = ("engine", "clients_per_pass", "workers", "precision", "attention")


def _settle(resolved: Config, out: Path) -> None:
    """Keep what the first run measured for all others, those of a later call included."""
    path = out / SETTLED
    if not path.is_file():
        with disk_errors(path):
            path.write_text(
                json.dumps({key: getattr(resolved.training, key) for key in _AUTO}) + "\n", encoding="utf-8"
            )


def _settled(config: Config, out: Path) -> Config:
    path = out / SETTLED
    if not path.is_file():
        return config
    measured = json.loads(path.read_text(encoding="utf-8"))
    open_keys = [key for key in _AUTO if getattr(config.training, key) == "auto"]
    training = config.training.model_copy(update={key: measured[key] for key in open_keys})
    return config.model_copy(update={"training": training})
