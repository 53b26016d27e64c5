"""A configuration as a person begins with it: some of its keys, and comments that say why they are so."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomlkit

from polyrank.config.schema import FILE
from polyrank.core.errors import ConfigError

WIDTH = 100
"""Columns of a comment."""


@dataclass(frozen=True)
class Entry:
    """A key of a section.

    Args:
        key: its name.
        value: what it is; Any: a TOML value.
        notes: comments that stand above it, each of one paragraph.
        off: whether it is commented out, as an example.
    """

    key: str
    value: Any
    notes: tuple[str, ...] = ()
    off: bool = False


@dataclass(frozen=True)
class Part:
    """A section: comments under its heading, and its keys."""

    section: str
    entries: Sequence[Entry]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Commented:
    """The whole file.

    Args:
        head: comments at its beginning, each of one paragraph.
        parts: its sections, in their order.
    """

    head: tuple[str, ...]
    parts: Sequence[Part] = field(default_factory=tuple)

    @property
    def values(self) -> dict[str, dict[str, Any]]:  # Any: TOML values
        """What the file sets."""
        return {part.section: {one.key: one.value for one in part.entries if not one.off} for part in self.parts}

    def toml(self) -> str:
        """The file's text; its first line names the schema that comes with the package, for editors.

        Raises:
            ConfigError: a value cannot be written so that the same is read back, such as half of a surrogate pair.
        """
        lines = [f"#:schema {FILE.as_uri()}", *_comments(self.head)]
        for part in self.parts:
            lines += ["", f"[{part.section}]", *_comments(part.notes)]
            for entry in part.entries:
                lines += [*_comments(entry.notes), ("# " if entry.off else "") + _line(entry)]
        text = "\n".join(lines) + "\n"
        _check(text, self.values)
        return text


def _comments(notes: Sequence[str]) -> Iterator[str]:
    """Notes as lines of comments; what is no printable character was to be quoted before, and is a space here."""
    for note in notes:
        plain = "".join(letter if letter.isprintable() else " " for letter in note)
        yield from textwrap.wrap(plain, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _line(entry: Entry) -> str:
    """A key and its value; letters that do not show, such as those that turn the direction, are escaped."""
    line = f"{entry.key} = {_written(entry.value)}"
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in line)


def _written(value: Any) -> str:  # Any: a TOML value
    """A value on one line: tables are inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{tomlkit.key(key).as_string()} = {_written(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(tomlkit.item(value).as_string())


def _check(text: str, values: Mapping[str, Mapping[str, Any]]) -> None:  # Any: TOML values
    try:
        found = tomllib.loads(text.encode().decode())
    except ValueError as error:  # UnicodeEncodeError is one
        raise ConfigError(f"these values cannot be written as TOML: {error}; rename the column or the file") from None
    if found != {section: dict(table) for section, table in values.items()}:
        raise ConfigError(
            "these values are not the same once they are read back from TOML; rename the column or the file"
        )
