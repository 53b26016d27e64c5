"""A configuration that fills up key by key, with a comment for each, around what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyrank.config import Config, parse
from polyrank.config.commented import Commented, Entry, Part

SHOWN = 12
"""Columns and labels that are named in a comment."""


class Draft:
    """Sections as they fill up; what was asked for stands where it belongs, and is never replaced.

    Args:
        asked: what is said already.
    """

    def __init__(self, asked: Config) -> None:
        self._given: dict[str, dict[str, Any]] = asked.model_dump(exclude_unset=True)
        self._entries: dict[str, list[Entry]] = {section: [] for section in Config.model_fields}

    def asked(self, section: str, key: str) -> Any:  # Any: a TOML value
        """What was asked for; None where nothing was."""
        return self._given.get(section, {}).get(key)

    def has(self, section: str, key: str) -> bool:
        """Whether a key was asked for."""
        return key in self._given.get(section, {})

    def put(self, section: str, key: str, value: Any, *notes: str) -> None:  # Any: a TOML value
        """Set a key and say why; one that was asked for is as it was asked for, and needs no reason."""
        given = self.has(section, key)
        self._entries[section].append(Entry(key, self.asked(section, key) if given else value, () if given else notes))

    def example(self, section: str, key: str, value: Any, *notes: str) -> None:  # Any: a TOML value
        """Show a key that may be set; one that was asked for is set."""
        if self.has(section, key):
            self.put(section, key, value)
        else:
            self._entries[section].append(Entry(key, value, notes, off=True))

    def note(self, section: str, key: str, *notes: str) -> None:
        """Say more of a key."""
        at = self._entries[section]
        at[:] = [Entry(own.key, own.value, (*own.notes, *notes), own.off) if own.key == key else own for own in at]

    def rest(self) -> None:
        """Set what was asked for and is not there yet."""
        for section, table in self._given.items():
            there = {entry.key for entry in self._entries[section]}
            self._entries[section] += [Entry(key, own) for key, own in table.items() if key not in there]

    def parts(self) -> list[Part]:
        """All sections that have something in them."""
        return [Part(section, entries) for section, entries in self._entries.items() if entries]

    @property
    def config(self) -> Config:
        """What is set so far, beside what was asked for."""
        values = {section: dict(table) for section, table in self._given.items()}
        for section, table in Commented((), self.parts()).values.items():
            values[section] = {**table, **values.get(section, {})}
        return parse(values, "the configuration to begin with")


def some(names: Sequence[str], between: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    more = f"{between}and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more


def quoted(name: str) -> str:
    """Somebody else's name in a comment: with its quotation marks, on one line, and cut."""
    return repr(name if len(name) <= 60 else f"{name[:60]}...")
