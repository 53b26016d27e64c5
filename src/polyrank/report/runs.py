"""Run folders as a report reads them: what was run, under which name, and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polyrank.config import Config
from polyrank.config.sections import HOW
from polyrank.core.errors import RunFolderError
from polyrank.data.digest import CUT
from polyrank.report.bounds import check_bounds, check_labels
from polyrank.runs import shapes
from polyrank.runs.agreement import SOURCES, differences
from polyrank.runs.folder import FIRST, RunFolder, folders_in, task_of
from polyrank.tasks import Metric, Task
from polyrank.tasks.metric import TEST, is_evaluated

_ALIKE: Any = {  # Any: the shape that pydantic's `exclude` takes
    "output": True,
    "evaluation": True,
    "federation": {"seed", "rounds"},
    "training": {*HOW, "attention"},
}
"""What runs of one name may differ in, since ``auto`` may have chosen differently. Method, options and ranks have a
form of their own in the name."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run, finished or not, with at least one evaluated round.

    Args:
        path: its folder.
        config: resolved.
        lines: of metrics.jsonl, one per round.
        clients: client -> ``rank``, ``examples``, ``group`` and what else clients.json says.
        scoring: ``bytes/up`` and ``bytes/down`` of the scoring round.
        about: task, labels, digests, versions and machine, of run.json.
        summary: of summary.json, or None while the run is not finished.
        untrained: of metrics.jsonl, the line of round 0, where the base was measured as it is.
        samples: of samples.json, what the model wrote before and after, where it is to write.
    """

    path: Path
    config: Config
    lines: Sequence[Mapping[str, Any]]  # Any: JSON values
    clients: Mapping[str, Mapping[str, Any]]
    scoring: Mapping[str, int]
    about: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    untrained: Mapping[str, Any] | None = None
    samples: Sequence[Mapping[str, str]] = ()

    @property
    def seed(self) -> int:
        """The seed of all that was drawn in it."""
        return self.config.federation.seed

    @property
    def digests(self) -> Mapping[str, str] | None:
        """What its data and model held; None where an earlier version did not keep it."""
        return self.about.get("digests")

    @cached_property
    def task(self) -> Task:
        """What was learned."""
        return task_of(self.about, self.config)

    @cached_property
    def evaluated(self) -> Sequence[Mapping[str, Any]]:
        """The lines of the rounds that were evaluated."""
        return [line for line in self.lines if is_evaluated(line)]

    @property
    def stopped_early(self) -> bool:
        """Whether it is finished before its last round, because it got no better."""
        return bool(self.lines) and (self.summary or {}).get("stopped_early") == len(self.lines)

    @property
    def rounds(self) -> list[int]:
        """The numbers of the evaluated rounds."""
        return [line["round"] for line in self.evaluated]

    @property
    def values(self) -> list[float]:
        """The task's primary metric after each evaluated round; infinitely bad where it was not finite."""
        primary = self.task.primary
        return [primary.measured(line.get(f"{TEST}{primary.name}")) for line in self.evaluated]

    @property
    def course(self) -> Sequence[Mapping[str, Any]]:
        """All lines, that of round 0 first where there is one."""
        return [*([self.untrained] if self.untrained else []), *self.lines]

    def before(self, metric: Metric) -> float | None:
        """A metric of the base as it is; None where that was not measured."""
        value = (self.untrained or {}).get(f"{TEST}{metric.name}")
        return None if value is None else float(value)

    @cached_property
    def traffic(self) -> list[int]:
        """Bytes sent up and down until the end of each evaluated round, the scoring round included."""
        total, sent = sum(self.scoring.values()), []
        for line in self.lines:
            total += line["bytes/up"] + line["bytes/down"]
            if is_evaluated(line):
                sent.append(total)
        return sent


def of_answers(summary: Mapping[str, Any]) -> str:  # Any: JSON values
    """Whose answers a run's constant answer looked at; see `Task.baseline`."""
    return str(summary.get("constant/of", "training"))


def find(paths: Sequence[Path]) -> list[Run]:
    """The runs in these folders and in all folders below them.

    Raises:
        RunFolderError: a path holds no run, or no run with an evaluated round.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        folders = sorted(folder.resolve() for folder in folders_in(path, ["run.json"]))
        if not folders:
            raise RunFolderError(f"{path} is no run folder and holds none; expected a folder that polyrank run wrote")
        for folder in folders:
            if folder not in found and (run := read(folder)).evaluated:
                found[folder] = run
    if not found:
        names = ", ".join(map(str, paths))
        raise RunFolderError(f"no run in {names} has an evaluated round yet; wait for its first round, or start it")
    return list(found.values())


def read(folder: Path) -> Run:
    """One run folder.

    Raises:
        RunFolderError: a file of it is missing or damaged.
    """
    files = RunFolder(folder)
    clients = files.read_json("clients") if (folder / "clients.json").is_file() else {"clients": {}, "scoring": {}}
    summary = files.read_json("summary") if (folder / "summary.json").is_file() else None
    config, about, found = files.read_config(), files.read_json("run"), files.read_lines()
    untrained = found[0] if found and found[0]["round"] == 0 else None
    lines = found[1:] if untrained else found
    if summary is not None and len(lines) < (done := summary.get("rounds", 0)):
        raise RunFolderError(
            f"{folder} is finished after {done} rounds, and its metrics.jsonl has {len(lines)} of them: the file was "
            "changed; put back what was there"
        )
    shapes.check_played(files.metrics, lines)
    samples = _samples(files)
    run = Run(folder, config, lines, clients["clients"], clients["scoring"], about, summary, untrained, samples)
    check_labels(run)
    check_bounds(run)
    return run


def _samples(files: RunFolder) -> list[dict[str, str]]:
    """What samples.json holds, if it is there; what is no text is left out."""
    if not (files.path / "samples.json").is_file():
        return []
    rows = files.read_json("samples").get("samples")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RunFolderError(
            f"{files.path / 'samples.json'} is damaged: expected a list of samples; delete it, or put back what was "
            "there"
        )
    return [{key: text for key, text in row.items() if isinstance(text, str)} for row in rows]


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ only in their seed together, by name, in the order in which they were found; seeds ascending.

    Raises:
        RunFolderError: runs are of different tasks; two are the same but for their folder, or were measured on other
            test data or labels; or data or model of two runs changed under a configuration that does not say so.
    """
    known = [run for run in runs if run.digests is not None]
    _check_task(runs)
    _check_comparable(known)
    moved = len(known) == len(runs) and all(run.digests == known[0].digests for run in known)
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, names([run.config for run in runs], sources=not moved), strict=True):
        group = groups.setdefault(name, [])
        for other in group:
            if other.seed == run.seed:
                raise RunFolderError(
                    f"{other.path} and {run.path} are the same run with the same seed; name one of them"
                )
        group.append(run)
    return {name: sorted(group, key=lambda run: run.seed) for name, group in groups.items()}


def _check_task(runs: Sequence[Run]) -> None:
    """Refuse runs that did not learn the same: their numbers are of different things."""
    for run in runs[1:]:
        if run.task != runs[0].task:
            ours, theirs = (one.about.get("task", FIRST) for one in (runs[0], run))
            what = f"{ours} and {theirs}" if ours != theirs else f"{ours} with different task.options"
            raise RunFolderError(
                f"{runs[0].path} and {run.path} are of different tasks, {what}: give each a report of its own"
            )


def _check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose metrics say nothing of each other.

    Methods are compared on one test set with one set of classes. Training data or the model may be what is compared,
    where the configurations say that they are not the same; where those are alike, what they name must be too.
    """
    for run in runs[1:]:
        if changed := differences(_tested_on(runs[0]), _tested_on(run)):
            raise RunFolderError(
                f"{runs[0].path} and {run.path} were not tested on the same data: {'; '.join(changed)}. Metrics of "
                "other texts cannot be compared: give each a report of its own"
            )
    for section in SOURCES:
        first: dict[str, Run] = {}
        for run in runs:
            alike = first.setdefault(repr(getattr(run.config, section)), run)
            if changed := differences(_of(section, alike), _of(section, run)):
                raise RunFolderError(
                    f"{alike.path} and {run.path} have the same [{section}], but it changed between them: "
                    f"{'; '.join(changed)}. They are no runs of one comparison: give each a report of its own"
                )


def _tested_on(run: Run) -> dict[str, str]:
    """What decides the test set, and what a right answer is; the seed is what comparisons are paired by."""
    options, digests = run.config.data, run.digests or {}
    parts = ("test", "training") if digests.get("test texts") == CUT else ("test",)
    told = {name: text for name, text in digests.items() if name.startswith(parts) or name == "classes"}
    if "training" in parts:
        told["data.test_share"] = str(options.test_share)
    return told | {"data.limit_test": "not set" if options.limit_test is None else str(options.limit_test)}


def _of(section: str, run: Run) -> dict[str, str]:
    """The digests of what a section of the configuration names."""
    ours = ("training", "test", "classes") if section == "data" else ("model", "vocabulary")
    return {name: text for name, text in (run.digests or {}).items() if name.startswith(ours)}


def names(configs: Sequence[Config], *, sources: bool = True) -> list[str]:
    """A name for each: the method with its options, its ranks where they tell runs apart, and whatever else does.

    ``sources``: whether the places of data and model may tell runs apart; not where they are known to hold the same.
    """
    plans = {_plan(config) for config in configs}
    several = sum(len(plan) > 1 for plan in plans) > 1
    flat = [_flat(config) for config in configs]
    places = () if sources else {f"{section}.{key}" for section, keys in SOURCES.items() for key in keys}
    keys = dict.fromkeys(key for values in flat for key in values)
    telling = [key for key in keys if key not in places and _tells(key, flat)]
    found = []
    for config, values in zip(configs, flat, strict=True):
        plan = _plan(config)
        parts = [method_name(config)]
        if len(plan) == 1 and len(plans) > 1:
            parts.append(f"rank {plan[0]}")
        elif len(plan) > 1 and several:
            parts.append(f"ranks {'/'.join(map(str, plan))}")
        parts += [f"{key.rpartition('.')[2]}={values[key]}" for key in telling if key in values]
        found.append(", ".join(parts))
    return found


def _plan(config: Config) -> tuple[int, ...]:
    """The ranks that clients may have; a single one where all have the same."""
    return tuple(sorted({*config.ranks.levels, *config.ranks.by_name.values()}))


def _tells(key: str, flat: Sequence[Mapping[str, Any]]) -> bool:  # Any: JSON values
    return len({repr(values[key]) for values in flat if key in values}) > 1


def method_name(config: Config) -> str:
    """The method with the options that were given, such as ``tempered gamma=0.25``."""
    options = " ".join(f"{key}={value}" for key, value in config.aggregation.options.items())
    return f"{config.aggregation.method} {options}".strip()


def _flat(config: Config) -> dict[str, Any]:
    """``section.key`` -> value of all that tells runs apart, but for the method and the sizes of the ranks."""
    values = config.model_dump(mode="json", exclude=_ALIKE)
    del values["aggregation"]["method"], values["aggregation"]["options"]
    del values["ranks"]["levels"]
    if len(_plan(config)) == 1:  # who has which rank is no question, whatever was written
        for key in ("shares", "counts", "by_name"):
            del values["ranks"][key]
    return {f"{section}.{key}": value for section, table in values.items() for key, value in table.items()}
