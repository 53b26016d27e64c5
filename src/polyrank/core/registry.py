"""What a configuration names: classes by name, each a frozen dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from polyrank.core.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name -> class; a new one costs its file and a line where its registry is made.

    Other installed packages add theirs by entry points of a group; each is loaded when it is asked for.

    Args:
        kind: what they are, in words, such as ``"rank policy"``.
        classes: by name, in the order in which they are listed.
        given: fields that whoever builds one sets, and a configuration does not.
        group: of entry points; without it no other package adds any.
        base: what a class of another package must be a subclass of.
        name_of: what a class calls itself, where it does.
    """

    def __init__(
        self,
        kind: str,
        classes: Mapping[str, type[T]],
        given: tuple[str, ...] = (),
        *,
        group: str = "",
        base: type = object,
        name_of: Callable[[type[T]], str] | None = None,
    ) -> None:
        self.kind, self._classes, self._given = kind, dict(classes), given
        self._group, self._base, self._name_of = group, base, name_of

    def __getitem__(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            KeyError: there is none; `named` says so to a user.
            ConfigError: another package's cannot be loaded or is none, or the name stands for several.
        """
        if name in self._installed:
            return self._loaded(name)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name; nothing is loaded."""
        return name in self._classes or name in self._installed

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they are listed; those of other packages behind ours."""
        return iter(dict.fromkeys([*self._classes, *self._installed]))

    def __len__(self) -> int:
        """How many there are."""
        return len(list(iter(self)))

    @cached_property
    def _installed(self) -> dict[str, list[EntryPoint]]:
        """Name -> what other packages have under it; looked up once, since all installed packages are read for it."""
        found: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self._group) if self._group else (), key=lambda one: one.name):
            found.setdefault(point.name, []).append(point)
        return found

    def _loaded(self, name: str) -> type[T]:
        """Another package's class of this name.

        Raises:
            ConfigError: see `__getitem__`.
        """
        first, *others = self._installed[name]
        whose = [f"the package {point.dist.name if point.dist else 'unknown'}" for point in (first, *others)]
        whose += ["PolyRank"] if name in self._classes else []
        if len(whose) > 1:
            several = " and of ".join(whose)
            raise ConfigError(f"{self.kind} {name!r} is of {several}; uninstall all but one, or rename it")
        what = f"{self.kind} {name!r} of {whose[0]}"
        try:
            found = first.load()
        except Exception as error:  # whatever somebody else's module raises when it is imported
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ConfigError(f"{what} cannot be loaded: {said}; mend or uninstall it") from error
        if not (isinstance(found, type) and is_dataclass(found) and issubclass(found, self._base)):
            expected = "a dataclass" if self._base is object else f"a dataclass that is a {self._base.__name__}"
            raise ConfigError(f"{what} is {found!r:.80}; expected {expected}")
        cls = cast("type[T]", found)  # which is what `base` stands for
        if self._name_of is not None and (own := self._name_of(cls)) != name:
            raise ConfigError(f"{what} calls itself {own!r}; expected the name of its entry point")
        return cls

    def named(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            ConfigError: there is none; the nearest name is given.
        """
        if name not in self:
            raise ConfigError(f"there is no {self.kind} {name!r}: {did_you_mean(name, self)}")
        return self[name]

    def options(self, name: str) -> dict[str, str]:
        """Options and their types, as written in the dataclass.

        Raises:
            ConfigError: as `named`.
        """
        found = fields(self.named(name))  # type: ignore[arg-type]  # every class of a registry is a dataclass
        types = {field.name: field.type if isinstance(field.type, str) else _named(field.type) for field in found}
        return {name: kind for name, kind in types.items() if name not in self._given}

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


def _named(kind: object) -> str:
    """A type as it is written, of a module that does not keep annotations as text."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


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
