"""Whether a version that the tests run with has a known vulnerability: ``python -m tools.audit``.

Asks OSV (https://osv.dev), the database that PyPI's own advisories are in, about all pins of ``constraints.txt`` in one
request. The answer is recorded in ``tools/audit.json`` with its date; the command ends with 1 where something was found
that is not listed under `ACCEPTED`. Where the database does not answer, the record is the list of pins with the date
and says that nobody was asked, and the command ends with 3.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
RESULT = ROOT / "tools" / "audit.json"
OSV = "https://api.osv.dev/v1/"
SECONDS = 30.0
ACCEPTED: Mapping[str, str] = {}
"""Advisory -> why it does not concern us."""

Ask = Callable[[str, Any], Any]
"""A path below `OSV` and what is posted there, or None; the JSON that comes back."""


def pins(text: str) -> dict[str, str]:
    r"""Name -> version of a constraints file.

    >>> pins("# a comment\nnumpy==2.1.0\n\nruff==0.9  # why")
    {'numpy': '2.1.0', 'ruff': '0.9'}

    Raises:
        ValueError: a line is no pin.
    """
    found = {}
    for line in text.splitlines():
        if wanted := line.partition("#")[0].strip():
            pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", wanted)
            if pin is None:
                raise ValueError(f"{line!r} is no pin; expected NAME==VERSION")
            found[pin[1]] = pin[2]
    return found


def ask(path: str, posted: Any = None) -> Any:  # Any: JSON values
    """Ask OSV.

    Raises:
        OSError: it does not answer.
        ValueError: what it answers is no JSON.
    """
    data = None if posted is None else json.dumps(posted).encode()
    request = urllib.request.Request(OSV + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def audit(versions: Mapping[str, str], ask: Ask = ask) -> list[dict[str, Any]]:
    """What is known of these versions: package, version, advisory with its other names, summary, where it was mended.

    Raises:
        OSError, ValueError: the database does not answer, or answers something else.
    """
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in versions.items()
    ]
    results = ask("querybatch", {"queries": queries})["results"]
    if len(results) != len(queries):
        raise ValueError(f"{len(results)} answers to {len(queries)} questions")
    found = []
    for (name, version), result in zip(versions.items(), results, strict=True):
        for one in result.get("vulns", ()):
            about = ask(f"vulns/{one['id']}", None)
            if "withdrawn" not in about:
                found.append({"package": name, "version": version, **_described(about, name)})
    return found


def _described(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An advisory, as far as it is recorded."""
    also = sorted(about.get("aliases", ()))
    return {
        "id": about["id"],
        "also": also,
        "summary": about.get("summary", ""),
        "mended_in": sorted(_mended(about, name)),
        "accepted": next((ACCEPTED[known] for known in (about["id"], *also) if known in ACCEPTED), ""),
    }


def _mended(about: Mapping[str, Any], name: str) -> set[str]:
    """Versions in which it is mended."""
    return {
        event["fixed"]
        for affected in about.get("affected", ())
        if affected.get("package", {}).get("name", "").lower() == name.lower()
        for span in affected.get("ranges", ())
        if span.get("type") == "ECOSYSTEM"
        for event in span.get("events", ())
        if "fixed" in event
    }


def record(versions: Mapping[str, str], ask: Ask = ask) -> dict[str, Any]:
    """What stands in the result: the date, whom was asked, the pins, what was found."""
    about = {"date": datetime.now(UTC).date().isoformat(), "database": OSV}
    try:
        return {**about, "asked": True, "found": audit(versions, ask), "pins": dict(versions)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        return {**about, "asked": False, "why": why, "found": [], "pins": dict(versions)}


def shown(recorded: Mapping[str, Any]) -> str:
    """For people."""
    count, date = len(recorded["pins"]), recorded["date"]
    if not recorded["asked"]:
        listed = "\n".join(f"{name}=={version}" for name, version in recorded["pins"].items())
        why = f"{recorded['database']} does not answer ({recorded['why']})"
        return f"{listed}\n{date}: {why}; {count} pins are not audited"
    lines = [
        f"{one['package']} {one['version']}: {one['id']} ({', '.join(one['also']) or 'no other name'}): "
        f"{one['summary'] or 'no summary'}; mended in {', '.join(one['mended_in']) or 'no version'}"
        + (f"; accepted: {one['accepted']}" if one["accepted"] else "")
        for one in recorded["found"]
    ]
    return "\n".join([*lines, f"{date}: {count} pins, {len(lines)} known vulnerabilities"])


def main(arguments: Sequence[str] | None = None, ask: Ask = ask) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pins", type=Path, default=PINS)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    recorded = record(pins(chosen.pins.read_text(encoding="utf-8")), ask)
    chosen.result.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print(shown(recorded))
    if not recorded["asked"]:
        return 3
    return 1 if any(not one["accepted"] for one in recorded["found"]) else 0


if __name__ == "__main__":
    sys.exit(main())
