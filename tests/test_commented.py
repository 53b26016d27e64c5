"""A configuration with comments: whatever names are in it, the same values are read back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.config.commented import WIDTH, Commented, Entry, Part
from polyrank.core.errors import ConfigError

NAMES = st.text(st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from("\x00\x7f\"'\\\n\r\t[]#={}")))


@given(NAMES, NAMES)
def test_any_name_is_read_back(name: str, note: str):
    values = {"text": [name, "b"], "label": name, "options": {name: {"x": [1.5, True]}}}
    file = Commented((note,), [Part("data", [Entry(key, value, (note,)) for key, value in values.items()])])
    text = file.toml()
    assert tomllib.loads(text) == {"data": values}
    assert text.replace("\n", "").isprintable()


def test_comments_stand_above_their_keys_and_examples_set_nothing():
    note = "word " * 50
    file = Commented(("head",), [Part("data", [Entry("test", "t.csv", (note,), off=True), Entry("train", "d.csv")])])
    first, *lines = file.toml().splitlines()
    assert first.startswith("#:schema file:///")
    assert lines[:3] == ["# head", "", "[data]"]
    assert lines[-2:] == ['# test = "t.csv"', 'train = "d.csv"']
    assert all(line.startswith("# word") and len(line) <= WIDTH for line in lines[3:-2])
    assert file.values == {"data": {"train": "d.csv"}}


def test_what_toml_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match=r"cannot be written as TOML.*rename the column"):
        Commented((), [Part("data", [Entry("text", "half \ud83d")])]).toml()
