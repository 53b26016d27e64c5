"""What a shell completes at a TAB: names that are in files, so that torch and pydantic are not loaded for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polyrank

PACKAGE = Path(polyrank.__file__).parent
METHOD = "aggregation.method"


def methods(incomplete: str) -> list[str]:
    """Names of aggregation methods that come with PolyRank; each is a file."""
    names = sorted(path.stem for path in (PACKAGE / "aggregation" / "methods").glob("[!_]*.py"))
    return [name for name in names if name.startswith(incomplete)]


def listed_methods(incomplete: str) -> list[str]:
    """The same behind the names that stand before the last comma."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in methods(last)]


def tasks(incomplete: str) -> list[str]:
    """Names of the tasks that come with PolyRank."""
    return [name for name in ("causal-lm", "classification") if name.startswith(incomplete)]


def quickstarts(incomplete: str) -> list[str]:
    """Names of quickstarts."""
    from polyrank.quickstart import QUICKSTARTS

    return [name for name in QUICKSTARTS if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """``section.key=`` of the configuration, and the values of a key that has few."""
    key, equals, value = incomplete.partition("=")
    found = dict(_keys())
    if not equals:
        return [f"{name}=" for name in found if name.startswith(key)]
    values = methods("") if key == METHOD else found.get(key, [])
    return [f"{key}={one}" for one in values if one.startswith(value)]


def _keys() -> Iterator[tuple[str, list[str]]]:
    """Each key of the schema that comes with the package, and the words that it may be."""
    schema = json.loads((PACKAGE / "config" / "schema.json").read_text(encoding="utf-8"))
    for section, table in schema["properties"].items():
        for key, value in schema["definitions"][table["$ref"].rpartition("/")[2]]["properties"].items():
            forms = value.get("anyOf", [value])
            words = [word for form in forms for word in form.get("enum", [form["const"]] if "const" in form else [])]
            truths = ["true", "false"] if value.get("type") == "boolean" else []
            yield f"{section}.{key}", [*words, *truths]
