"""The configuration as a JSON schema, which editors complete and check TOML files by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schema.json")
"""The schema as it comes with the package; ``python docs/generate.py`` writes it."""
DIALECT = "http://json-schema.org/draft-07/schema#"
"""Older than what pydantic says: taplo, by which most editors read TOML, knows no newer one."""


def schema() -> dict[str, Any]:  # Any: JSON values
    """Pydantic's schema of `Config`, with the descriptions of the sections and keys as plain text.

    TOML has no null: a key that may be left out has no alternative for it, and no default.
    """
    from polyrank.config.whole import Config

    found = Config.model_json_schema(ref_template="#/definitions/{model}")
    sections = found["$defs"]
    for section in sections.values():
        section["properties"] = {key: _key(value) for key, value in section["properties"].items()}
        section["description"] = _plain(section["description"].partition(": ")[2])
    tables = {name: {"$ref": value["$ref"]} for name, value in found["properties"].items()}
    return {
        "$schema": DIALECT,
        "title": "PolyRank",
        "description": "A federation of clients with ranks of their own.",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
        "definitions": sections,
    }


def text() -> str:
    """The schema as it is written to a file."""
    return json.dumps(schema(), indent=1) + "\n"


def _key(value: dict[str, Any]) -> dict[str, Any]:
    """A key's schema without what is only Python's."""
    kept = {name: own for name, own in value.items() if name != "title"}
    if "description" in kept:
        kept["description"] = _plain(kept["description"])
    if "default" in kept and kept["default"] is None:
        del kept["default"]
    if "anyOf" in kept:
        *others, last = [one for one in kept["anyOf"] if one != {"type": "null"}]
        kept = {**kept, "anyOf": [*others, last]} if others else {**last, **_without(kept, "anyOf")}
    return kept


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: own for key, own in value.items() if key != name}


def _plain(description: str) -> str:
    """A docstring on one line, with what is code between single marks."""
    return " ".join(description.split()).replace("``", "`")
