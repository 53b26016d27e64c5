"""What docs/configuration.md shows of a key can be written into a configuration."""

from __future__ import annotations

import pytest
from tools.pages import keys

from polyrank.config import Config

SECTIONS = {name: field.annotation for name, field in Config.model_fields.items()}
NAMES = [(section, key) for section, kind in SECTIONS.items() for key in getattr(kind, "model_fields", {})]
BESIDE = {"privacy": {"model": "central", "noise": 1.0}}
"""What a key's example needs beside it in its section."""


@pytest.mark.parametrize(("section", "key"), NAMES, ids=[".".join(name) for name in NAMES])
def test_the_example_of_a_key_is_read(section: str, key: str):
    """As it stands in TOML, and it is kept as it was said."""
    about = keys.about(section, key)
    assert "example" in about, f"docs/keys.toml: found no example of {section}.{key}, whose default is none; add one"
    example = about["example"]
    read = Config.model_validate({section: {**BESIDE.get(section, {}), key: example}})
    assert getattr(getattr(read, section), key) == example


def test_the_file_names_keys_alone():
    assert keys.unknown() == []


def test_where_an_example_comes_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "_file", lambda: {"examples": {}, "units": {}})
    assert keys.about("data", "test") == {}
    assert keys.about("federation", "head") == {"example": "local"}
    assert keys.about("output", "project") == {"example": "polyrank"}


def test_types_are_words():
    fields = {name: kind.model_fields for name, kind in SECTIONS.items()}
    assert keys.kind(fields["model"]["targets"]) == "text, list of texts"
    assert keys.kind(fields["training"]["lanes"]) == "whole number, `auto`"
    assert keys.kind(fields["ranks"]["shares"]) == "list of numbers"
    assert keys.kind(fields["evaluation"]["diagnostics"]) == "true or false"
