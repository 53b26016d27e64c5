"""What a configuration names: classes by name, each a frozen dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

from polyrank.core.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name -> class; a new one costs its file and a line where its registry is made.

    Args:
        kind: what they are, in words, such as ``"rank policy"``.
        classes: by name, in the order in which they are listed.
        given: fields that whoever builds one sets, and a configuration does not.
    """

    def __init__(self, kind: str, classes: Mapping[str, type[T]], given: tuple[str, ...] = ()) -> None:
        self.kind, self._classes, self._given = kind, dict(classes), given

    def __getitem__(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            KeyError: there is none; `named` says so to a user.
        """
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they are listed."""
        return iter(self._classes)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._classes)

    def named(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            ConfigError: there is none; the nearest name is given.
        """
        if name not in self._classes:
            raise ConfigError(f"there is no {self.kind} {name!r}: {did_you_mean(name, self._classes)}")
        return self._classes[name]

    def options(self, name: str) -> dict[str, str]:
        """Options and their types, as written in the dataclass.

        Raises:
            ConfigError: as `named`.
        """
        found = fields(self.named(name))  # type: ignore[arg-type]  # every class of a registry is a dataclass
        return {field.name: str(field.type) for field in found if field.name not in self._given}

    def build(self, name: str, options: Mapping[str, Any] | None = None, **given: Any) -> T:  # Any: TOML values
        """One with these options.

        Raises:
            ConfigError: the name, an option or an option's value is unknown; the message names the nearest known one.
        """
        self.check(name, options or {}, self.options(name))
        return checked(f"{self.kind} {name}", self.named(name), {**(options or {}), **given})

    def check(self, name: str, options: Mapping[str, Any], known: Mapping[str, str]) -> None:  # Any: TOML values
        """Refuse options that are not known.

        Args:
            name: whose they are.
            options: as read.
            known: options and their types.

        Raises:
            ConfigError: the nearest known one is given.
        """
        for key, value in options.items():
            if key not in known:
                hint = did_you_mean(key, known) if known else "it has no options"
                raise ConfigError(f"{self.kind} {name} has no option {key!r}: {hint}")
            if isinstance(value, bool) and "bool" not in known[key]:  # which pydantic would read as 0 or 1
                raise ConfigError(f"{self.kind} {name}, option {key}: found {value}; expected {known[key]}")


def checked(what: str, kind: type[T], value: Any, option: str = "") -> T:  # Any: whatever a configuration holds
    """A value as its type reads it.

    Args:
        what: whose value, in words.
        kind: the type.
        value: as it was read.
        option: its name, where the type does not say it.

    Raises:
        ConfigError: it is of another kind; what was found and expected is said.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = option or ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{what}, option {where}: found {first['input']!r}; {first['msg']}") from None
