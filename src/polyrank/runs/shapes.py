"""What the JSON of a run folder has to look like: whoever reads one may rely on it, whoever wrote it.

A key that is not named here may hold anything. One that is need not be there unless it says so: earlier versions had
fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict  # pydantic's own, which it wants before Python 3.12

from polyrank.core.errors import RunFolderError
from polyrank.core.strict import Count, checked
from polyrank.tasks.metric import BY_KIND

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)] | None
"""What was measured; null stands for a number that is not finite."""
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Rank: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]


class Client(TypedDict):
    """One client in ``clients.json``."""

    rank: Rank
    examples: NotRequired[Count]
    group: NotRequired[str | None]
    labels: NotRequired[tuple[Count, ...]]
    left_out: NotRequired[dict[str, Count]]


class Clients(TypedDict):
    """The content of ``clients.json``."""

    clients: dict[Name, Client]
    scoring: dict[str, Count]


class About(TypedDict):
    """The content of ``run.json``."""

    labels: NotRequired[tuple[str, ...]]
    outputs: NotRequired[tuple[str, ...]]
    head_modules: NotRequired[tuple[str, ...]]
    task: NotRequired[Name]
    wire: NotRequired[str]
    stay_with_clients: NotRequired[tuple[str, ...]]
    digests: NotRequired[dict[str, str]]
    versions: NotRequired[dict[str, str | None]]
    python: NotRequired[str]
    platform: NotRequired[str]
    gpu: NotRequired[str | None]
    cores: NotRequired[int | None]
    threads: NotRequired[int | None]


class Group(TypedDict):
    """One rank group in ``summary.json``; beside these stand the task's metrics."""

    rank: Rank
    clients: Count


class Summary(TypedDict):
    """The content of ``summary.json``, but for its numbers."""

    rounds: NotRequired[Count]
    clients: NotRequired[Count]
    dropped: NotRequired[Count]
    method: NotRequired[str]
    seconds: NotRequired[Number]
    rank_groups: NotRequired[tuple[Group, ...]]
    not_tracked: NotRequired[tuple[str, ...]]
    stopped_early: NotRequired[Count]
    time: NotRequired[dict[str, Number]]


class Line(TypedDict):
    """One line of ``metrics.jsonl``, but for its numbers."""

    round: Count
    seconds: NotRequired[Number]
    clients: NotRequired[tuple[Name, ...]]
    dropped: NotRequired[dict[str, str]]
    ranks: NotRequired[dict[str, Rank]]


FILES: Mapping[str, Any] = {"clients": Clients, "run": About, "summary": Summary}  # Any: types
PLAYED = ("bytes/up", "bytes/down", "clients", "dropped", "seconds")
"""What every round's line has had from the first version on."""
BYTES, ROWS = ("bytes/", "memory/"), "rows/"
TABLES = (BY_KIND, "_by_module", "_by_client")
"""How keys end whose value is a number for each of several names."""


def check(name: str, value: Mapping[str, Any]) -> None:  # Any: JSON values
    """Refuse the content of ``name.json`` where a key holds what it never does.

    Raises:
        CodecError: one does; with its name.
    """
    if name not in FILES:
        return
    checked(FILES[name], value, f"{name}.json")
    _check_numbers(value)
    for group in value.get("rank_groups", ()):
        _check_numbers({f"rank_groups/{key}": number for key, number in group.items()})


def check_line(line: Mapping[str, Any]) -> None:  # Any: JSON values
    """Refuse a line of ``metrics.jsonl`` where a key holds what it never does.

    Raises:
        CodecError: one does; with its name.
    """
    checked(Line, line, "a line")
    _check_numbers(line)


def check_played(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:  # Any: JSON values
    """Refuse rounds' lines that lack what all of them have.

    Raises:
        RunFolderError: a key is missing.
    """
    for line in lines:
        if missing := [key for key in PLAYED if key not in line]:
            raise RunFolderError(
                f"{path}: the line of round {line['round']} has no {missing[0]}: the file was changed; put back what "
                "was there"
            )


def _check_numbers(values: Mapping[str, Any]) -> None:  # Any: JSON values
    """Refuse what is no number under keys of measurements, which have a slash in them."""
    for kind, found in _by_kind(values).items():
        checked(_KINDS[kind], found, "it")


_KINDS: Mapping[str, Any] = {  # Any: types
    "number": dict[str, Number],
    "bytes": dict[str, Count | None],
    "row": dict[str, tuple[Number, ...]],
    "table": dict[str, dict[str, Number]],
}


def _by_kind(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # Any: JSON values
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if "/" in key and key != "constant/of":
            bytes_, row = key.startswith(BYTES), key.startswith(ROWS)
            kind = "bytes" if bytes_ else "row" if row else "table" if key.endswith(TABLES) else "number"
            found.setdefault(kind, {})[key] = value
    return found
