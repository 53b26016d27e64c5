"""The walk of a round's values through the code: which functions are given the server's state, and which an update.

    python -m tools.walk

One round of four clients of the quickstart. A station is a function (however often it is called, and no method of the
value itself) that has the value, or a collection of such values, among its arguments; stations of one file one after
another are one visit to it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import polyrank
from polyrank.config import Config

SETTINGS = [
    *("federation.clients=4", "federation.participation=1", "federation.rounds=1", "ranks.policy=random"),
    *("training.precision=float32", "training.attention=eager", "training.engine=batched", "training.workers=1"),
    *("training.clients_per_pass=4", "data.limit_train=80", "data.limit_test=40"),
]
RUNNERS = ("polyrank.runs.runner", "polyrank.federation.runner")  # as it is called here, and was called before
VALUES = {"the server's state": {"ServerState"}, "an update": {"ClientUpdate", "Outcome"}}


def main() -> None:
    """Walk and print."""
    walked = walk(polyrank.load_config(overrides=SETTINGS))
    for value, stations in walked.items():
        visits = [file for i, (file, _) in enumerate(stations) if i == 0 or stations[i - 1][0] != file]
        print(f"\n{value}: {len(set(stations))} stations, {len(visits)} visits to {len(set(visits))} files")
        for file in dict.fromkeys(visits):
            names = dict.fromkeys(name for own, name in stations if own == file)
            print(f"  {file} ({visits.count(file)} visits): {', '.join(names)}")


def walk(config: Config) -> Mapping[str, list[tuple[str, str]]]:
    """``(file, function)`` in the order of the calls, by value."""
    found: dict[str, list[tuple[str, str]]] = {value: [] for value in VALUES}

    def look(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or "/polyrank/" not in path or frame.f_code.co_name.startswith("<"):
            return
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:count]]
        for value, names in VALUES.items():
            own = frame.f_code.co_varnames[:1] == ("self",) and type(given[0]).__name__ in names
            if not own and any(_kinds(one) & names for one in given):
                found[value].append((path.rpartition("/polyrank/")[2], frame.f_code.co_qualname))

    runner = next(importlib.import_module(name) for name in RUNNERS if _exists(name))
    step = runner.Runner.step

    def watched(self: object, state: object) -> object:
        sys.setprofile(look)
        try:
            return step(self, state)
        finally:
            sys.setprofile(None)

    runner.Runner.step = watched
    with tempfile.TemporaryDirectory() as folder:
        polyrank.run(config, Path(folder) / "run")
    runner.Runner.step = step
    return found


def _kinds(value: Any) -> set[str]:  # Any: an argument
    """Names of the types of a value, or of what a collection holds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    inner = value[:1] if isinstance(value, list | tuple) else [value]
    return {type(one).__name__ for one in inner}


def _exists(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
