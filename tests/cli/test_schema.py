"""The JSON schema of the configuration: in step with the code, and right about files that are and are not valid."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from polyrank.config import Config, dump, parse
from polyrank.config.schema import FILE, schema, text
from polyrank.core.errors import ConfigError
from polyrank.quickstart import config_path
from tests.cli.conftest import Polyrank
from tests.versions import as_tested

VALIDATOR = jsonschema.Draft7Validator(schema())


def test_the_file_in_the_package_is_up_to_date():
    """`python docs/generate.py` brings it up to date; an older pydantic says what is so without being said."""
    if as_tested("pydantic"):
        assert FILE.read_text(encoding="utf-8") == text()
    kept, made = (json.loads(one, object_hook=_without_defaults) for one in (FILE.read_text(encoding="utf-8"), text()))
    assert kept == made


def _without_defaults(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if (key, value) != ("additionalProperties", True)}


def test_it_is_a_schema_and_says_what_every_key_is():
    found = schema()
    jsonschema.Draft7Validator.check_schema(found)
    for section in found["definitions"].values():
        for key, value in section["properties"].items():
            assert value["description"], key
            assert "\n" not in value["description"]
            assert "``" not in value["description"]
            assert {"type": "null"} not in value.get("anyOf", [])


@pytest.mark.parametrize(
    "toml", [dump(Config()), config_path("generative").read_text(), '[data]\ntext = ["a", "b"]\nprompt = "c"\n']
)  # type: ignore[union-attr]  # that quickstart is a file
def test_it_lets_through_what_is_valid(toml: str):
    values = tomllib.loads(toml)
    parse(values, "test")
    VALIDATOR.validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"nobody": {}},
        {"data": {"nobody": 1}},
        {"federation": {"rounds": 0}},
        {"training": {"engine": "fast"}},
        {"training": {"clients_per_pass": "all"}},
        {"ranks": {"levels": []}},
        {"data": {"text": 5}},
    ],
)
def test_it_refuses_what_is_not(values: dict[str, Any]):
    assert not VALIDATOR.is_valid(values)
    with pytest.raises(ConfigError):
        parse(values, "test")


def test_the_command_prints_it_writes_it_and_says_where_it_is(polyrank: Polyrank, tmp_path: Path):
    assert json.loads(polyrank("schema").out) == schema()
    assert polyrank("schema", "-o", "own.json").code == 0
    assert (tmp_path / "own.json").read_text(encoding="utf-8") == text()
    assert polyrank("schema", "--where").out.strip() == str(FILE)
    refused = polyrank("schema", "-o", tmp_path / "nowhere" / "own.json")
    assert (refused.code, refused.out) == (2, "")
    assert "cannot be written: No such file" in refused.err
    assert polyrank("schema", "-o", "x", "--where").code == 2
