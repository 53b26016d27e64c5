"""All runs of a comparison: finished ones are reused, an interrupted one goes on, the rest are started."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyrank.comparison.entries import Entry
from polyrank.config import Config
from polyrank.config.sections import MEASURED, TrainingConfig
from polyrank.core.errors import RunFolderError
from polyrank.core.files import read_whole
from polyrank.federation.population import digests_of
from polyrank.federation.scoring import Known
from polyrank.runs.folder import RunFolder, disk_errors
from polyrank.runs.listener import Listener
from polyrank.runs.patience import is_spent
from polyrank.runs.resume import on_schedule
from polyrank.runs.runner import run
from polyrank.tasks import task
from polyrank.tasks.metric import is_evaluated


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    entry: Entry
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The run's name for people."""
        return f"{self.entry.name}, seed {self.seed}"


def plan(entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> list[Planned]:
    """All runs, seed by seed, so that a comparison that is stopped has whole seeds."""
    return [Planned(entry, seed, out / entry.name / f"seed-{seed}") for seed in seeds for entry in entries]


def compare(
    planned: Sequence[Planned],
    out: Path,
    *,
    listener: Callable[[Planned], Listener | None] = lambda _: None,
    scores: Known | None = None,
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
        RunFolderError: a folder holds a run of another configuration, or of other data or another model than there are
            now; nothing of it is touched.
        PolyRankError: as `polyrank.runs.runner.run`.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for one in planned:  # all that can be refused is refused before the first run starts
        finished(one)
    _check_data([one for one in planned if _begun(one)])
    scores = {} if scores is None else scores
    for one in planned:
        if finished(one):
            continue
        asked, begun = one.entry.seeded(one.seed), _begun(one)
        run(
            _settled(asked, out),
            one.folder,
            resume=begun,
            overwrite=not begun,
            listener=listener(one),
            scores=scores,
            requested=asked,
        )
        _settle(RunFolder(one.folder).read_config(), out)
    return [one.folder for one in planned]


def finished(one: Planned) -> bool:
    """Whether this run is done, to its last round or its patience's end, and evaluated in the rounds asked for.

    Raises:
        RunFolderError: the folder holds a run of another configuration, one of an earlier version that does not say
            what was asked for, a longer one, or one that was not evaluated where it is asked for.
    """
    if not _begun(one):
        return False
    folder = RunFolder(one.folder)
    wanted = folder.read_asked().agreed(one.entry.seeded(one.seed), one.folder).resolved
    rounds, lines = wanted.federation.rounds, folder.read_metrics()
    if len(lines) > rounds:
        raise RunFolderError(
            f"{one.folder} holds {len(lines)} finished rounds and federation.rounds is {rounds}; expected {len(lines)} "
            "or more, or another --out"
        )
    shown = on_schedule(lines, wanted.evaluation.every, rounds)
    if not (one.folder / "summary.json").is_file():
        return False
    summary, done = folder.read_json("summary"), len(lines)
    if summary.get("rounds") != done or shown != lines or not is_evaluated(lines[-1]):
        return False
    early = summary.get("stopped_early") == done
    return done == rounds or (early and is_spent(lines, task(wanted).primary, wanted.evaluation.patience))


def _begun(one: Planned) -> bool:
    """Whether anything of the run was saved; a folder in which it only just started is written anew."""
    folder = RunFolder(one.folder)
    return folder.exists() and (any(folder.checkpoint.glob("*")) or (one.folder / "summary.json").is_file())


def _check_data(planned: Sequence[Planned]) -> None:
    """Refuse runs of other data or another model than there are now. Sources are read once for all runs of theirs."""
    found: dict[str, dict[str, str]] = {}
    for one in planned:
        config = one.entry.seeded(one.seed)
        key = json.dumps([section.model_dump(mode="json") for section in (config.data, config.task, config.model)])
        if key not in found:
            found[key] = digests_of(config)
        RunFolder(one.folder).record().check(found[key], config, platform.python_version())


SETTLED = "settled.json"
YOUNGER = {"lanes": 1}
"""What was not measured where it does not say so: all runs were made in one."""


def _settle(resolved: Config, out: Path) -> None:
    """Keep what the first run measured for all others, those of a later call included."""
    path = out / SETTLED
    if not path.is_file():
        with disk_errors(path):
            path.write_text(
                json.dumps({key: getattr(resolved.training, key) for key in MEASURED}) + "\n", encoding="utf-8"
            )


def _settled(config: Config, out: Path) -> Config:
    path = out / SETTLED
    if not path.is_file():
        return config
    open_keys = [key for key in MEASURED if getattr(config.training, key) == "auto"]
    try:
        measured = {**YOUNGER, **json.loads(read_whole(path))}
        values = config.training.model_dump() | {key: measured[key] for key in open_keys}
        training = TrainingConfig.model_validate(values)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise RunFolderError(
            f"{path} is damaged: it says what was measured for all runs ({', '.join(MEASURED)}); put back what was "
            "there, or delete it to have that measured anew"
        ) from None
    return config.model_copy(update={"training": training})
