"""Finished runs of a table in one small file, so that a study goes on wherever it was stopped.

``paper/results/TABLE.jsonl`` has a line per run: its name, its resolved configuration without local paths, the machine,
and of every round what the tables and figures need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

from polyrank.config import Config, PrivacyConfig, SecureConfig, parse
from polyrank.config.sections import MEASURED
from polyrank.core.errors import RunFolderError
from polyrank.report.runs import Run
from polyrank.runs.agreement import differences
from polyrank.runs.folder import name_of
from polyrank.tasks.metric import TEST

KEPT = (
    *("bytes/up", "bytes/down", "seconds"),
    *("aggregation/error", "rank/effective", "rank/energy_in_lowest", "rows/owners_weight", "rows/energy"),
)
DIGITS = 6
LATER = {
    "model": {"quantization": "none"},
    "data": {
        **{"labels": None, "quoting": "auto", "options": {}, "hold_out": False},
        **{"format": "auto", "prompt": None, "completion": None, "messages": None, "template": "auto"},
    },
    "training": {
        "gradient_checkpointing": False,
        "accumulate": 1,
        "cuda_graphs": False,
        "cluster": "none",
        "rounds_decay": "none",
        "proximal": 0.0,
    },
    "evaluation": {"samples": 5, "sample_tokens": 64, "patience": None},
    "ranks": {"options": {}},
    "task": {"name": "classification", "options": {}},
    "aggregation": {"robust": "none", "robust_options": {}, "server": "none", "server_lr": None, "server_options": {}},
    "privacy": PrivacyConfig().model_dump(mode="json"),
    "secure": SecureConfig().model_dump(mode="json"),
}
"""Keys of the configuration that are younger than the archive: where they have these values a run is the older one."""


def key(study: str, name: str, config: Config) -> str:
    """What tells a run from all others: its study, its name, and a checksum of what decides its result."""
    text = json.dumps(_portable(config, resolved=False), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{study}/{name}/seed-{config.federation.seed}/{digest}"


def load(path: Path) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """Key -> line."""
    if not path.is_file():
        return {}
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return {line["key"]: line for line in lines}


def elsewhere(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs of all tables of the folder by what they are, whichever study has made them: `key` without the study."""
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in load(path).values())
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["key"].partition("/")[2], line)
    return found


def copy(path: Path, name: str, line: Mapping[str, Any]) -> None:
    """Add another study's run under the key ``name``."""
    _write(path, {**line, "key": name})


def append(path: Path, name: str, run: Run) -> None:
    """Add a finished run under the key ``name``."""
    assert run.summary is not None
    primary, curves = run.task.primary.name, [metric.name for metric in run.task.metrics if metric.curve]
    kept = ("round", *(f"{TEST}{curve}" for curve in curves), *KEPT)
    line = {
        "key": name,
        "config": _portable(run.config, resolved=True),
        "digests": run.digests,
        "machine": machine(),
        "scoring": run.scoring,
        "summary": {k: run.summary[k] for k in (f"{TEST}{primary}", f"constant/{primary}", "seconds", "dropped")},
        "high": _high(run),
        "lines": [{k: short(line[k]) for k in kept if k in line} for line in run.lines],
    }
    _write(path, line)


def _write(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def restore(line: Mapping[str, Any]) -> Run:
    """The run as reports read it; clients are not kept. One that is older than ``[task]`` has the task there was."""
    config = parse(line["config"], line["key"])
    config = config.model_copy(update={"task": config.task.model_copy(update={"name": name_of({}, config)})})
    about = {**line["machine"], **({"digests": line["digests"]} if line.get("digests") else {})}
    return Run(Path(line["key"]), config, line["lines"], {}, line["scoring"], about, line["summary"])


def check(name: str, line: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Refuse an archived run of other data or another model than there are now; an older line does not say.

    Raises:
        RunFolderError: something differs; it is named.
    """
    if line.get("digests") and (changed := differences(line["digests"], found)):
        raise RunFolderError(
            f"{name} was measured on other data or another model: {'; '.join(changed)}. Give --data and --model what "
            "it was measured on, or --results another folder"
        )


def _high(run: Run) -> dict[str, int]:
    """How many clients of each group of the partition have the highest rank."""
    top = max((client["rank"] for client in run.clients.values()), default=0)
    groups: dict[str, int] = {}
    for client in run.clients.values():
        if client["rank"] == top:
            group = client["group"] or "all"
            groups[group] = groups.get(group, 0) + 1
    return groups


def short(value: Any) -> Any:  # Any: JSON values
    """A value with the digits that are kept."""
    if isinstance(value, list):
        return [short(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _portable(config: Config, *, resolved: bool) -> dict[str, Any]:
    """The configuration with names in the place of local paths, and without what does not change the result."""
    values = config.model_dump(mode="json", exclude={"output": True})
    values["model"]["name"] = Path(values["model"]["name"]).name
    for name in ("train", "test"):
        path = values["data"][name]
        if path and Path(path).is_file():
            values["data"][name] = f"{Path(path).parent.name}/{Path(path).name}"
    if not resolved:
        for section, defaults in LATER.items():
            for name, default in defaults.items():
                if values[section][name] == default:
                    del values[section][name]
            if not values[section]:
                del values[section]
        for name in MEASURED:
            del values["training"][name]
    return values
