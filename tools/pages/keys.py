"""What docs/configuration.md says of a key beside its description: type, unit, example."""

from __future__ import annotations

import tomllib
import types
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from polyrank.config import Config

FILE = Path(__file__).parents[2] / "docs" / "keys.toml"
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table"}


@cache
def _file() -> dict[str, dict[str, Any]]:  # Any: TOML values
    found: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return found


def about(section: str, key: str) -> dict[str, Any]:  # Any: an example is any TOML value
    """A key's example, and its unit if it has one.

    The example is that of docs/keys.toml, or else a choice that is not the default, or else the default itself. Where
    that is none there is no example, which a test refuses.
    """
    name, file = f"{section}.{key}", _file()
    section_type = Config.model_fields[section].annotation
    field = getattr(section_type, "model_fields", {})[key]
    found = {"unit": file["units"][name]} if name in file["units"] else {}
    if name in file["examples"]:
        found["example"] = file["examples"][name]
    elif others := [choice for choice in choices(field.annotation) if choice != field.default]:
        found["example"] = others[-1]
    elif field.default is not None:
        found["example"] = field.default
    return found


def choices(annotation: Any) -> tuple[Any, ...]:  # Any: a type, or what stands for one
    """The values that an annotation lists, wherever it lists some."""
    if annotation is bool:
        return (False, True)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return ()


def kind(field: FieldInfo) -> str:
    """The type of a key in words."""
    return ", ".join(_words(field.annotation))


def _words(annotation: Any) -> list[str]:  # Any: as in `choices`
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return [f"`{choice}`" for choice in arguments]
    if origin in (Union, types.UnionType):
        return [word for argument in arguments if argument is not type(None) for word in _words(argument)]
    if origin is list:
        return [f"list of {_several(arguments[0])}"]
    return [WORDS[origin or annotation]]


def _several(annotation: Any) -> str:  # Any: as in `choices`
    if get_origin(annotation) is Literal:
        return " or ".join(_words(annotation))
    return {str: "texts", int: "whole numbers", float: "numbers"}[annotation]


def unknown() -> list[str]:
    """Names in the file that are no keys."""
    known = {f"{section}.{key}" for section, field in Config.model_fields.items() for key in _keys(field)}
    return sorted({name for table in _file().values() for name in table} - known)


def _keys(field: FieldInfo) -> list[str]:
    return list(getattr(field.annotation, "model_fields", {}))
