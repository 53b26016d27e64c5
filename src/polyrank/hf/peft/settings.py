"""``adapter_config.json`` of a LoRA adapter: read where its meaning is certain, refused in one line where it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polyrank.core.errors import AdapterError
from polyrank.core.files import read_whole
from polyrank.hf.peft.fields import FIELDS, LEAVES_THE_BASE, Holds, default_in_peft
from polyrank.hf.peft.shared import what_is_missing

SETTINGS = "adapter_config.json"

Settings = Mapping[str, Any]  # Any: JSON values

SHOWN = 60
"""Characters of a value that an error shows."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a LoRA adapter, none of which makes it more than LoRA with biases.

    Encodings that JSON allows are read, with and without a byte order mark, and whole numbers written as ``4.0``.

    Raises:
        AdapterError: the file is missing, damaged or not of LoRA; a value is of the wrong kind; a setting is in effect
            that PolyRank refuses or does not know.
    """
    path = folder / SETTINGS
    settings = _object(path, folder)
    for key in ("r", "layers_to_transform", "rank_pattern"):
        if key in settings:
            settings[key] = _whole(settings[key])
    if settings.get("peft_type") != "LORA":
        raise AdapterError(f"{folder} holds a {shown(settings.get('peft_type'))} adapter; expected LORA")
    for key, value in settings.items():
        if key in FIELDS:
            _check_kind(path, key, value)
        _check_fate(folder, key, value, settings)
    return settings


def shown(value: Any) -> str:  # Any: a JSON value
    """A value, in an error's one line."""
    text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def json_of(path: Path) -> Any:  # Any: JSON values
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        AdapterError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_whole(path))
    except FileNotFoundError:
        raise
    except json.JSONDecodeError as error:
        problem = f"it is no JSON from line {error.lineno}, column {error.colno} on"
    except UnicodeDecodeError as error:
        problem = f"its text is broken at byte {error.start}; expected UTF-8"
    except ValueError as error:  # a whole number of thousands of digits
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    except OSError as error:
        problem = str(error.strerror or error)
    raise AdapterError(f"{path} cannot be read: {problem}")


def _object(path: Path, folder: Path) -> dict[str, Any]:
    try:
        settings = json_of(path)
    except FileNotFoundError:
        reason = what_is_missing(folder) or f"{folder} is no adapter folder: it has no {SETTINGS}"
        raise AdapterError(reason) from None
    if not isinstance(settings, dict):
        raise AdapterError(f"{path} holds a {type(settings).__name__}; expected the settings of an adapter")
    return settings


def _whole(value: Any) -> Any:  # Any: a JSON value
    """Whole numbers as such, where they were written with a point."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {key: _whole(each) for key, each in value.items()} if isinstance(value, dict) else value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Mapping[Holds, tuple[str, Callable[[object], bool]]] = {
    "text": ("a text", _is_text),
    "flag": ("true, false", lambda value: value in (0, 1)),  # equal to false and true
    "names": ("a list of names", _are_names),
    "names or a pattern": ("a list of names, a pattern", lambda value: _is_text(value) or _are_names(value)),
    "whole numbers": (
        "a whole number, a list of them",
        lambda value: _is_whole(value) or (isinstance(value, list) and all(map(_is_whole, value))),
    ),
    "an object": ("an object", lambda value: isinstance(value, dict)),
}


def _check_kind(path: Path, key: str, value: Any) -> None:  # Any: a JSON value
    holds = FIELDS[key].holds
    if value is None or holds == "anything":
        return
    expected, fits = _KINDS[holds]
    if not fits(value):
        raise AdapterError(f"{path}: {key} is {value!r:.{SHOWN}}; expected {expected} or null")


def _check_fate(folder: Path, key: str, value: Any, settings: Settings) -> None:  # Any: a JSON value
    field = FIELDS.get(key)
    if field is None:
        empty = value is None or value is False or value in ("", [], {})
        if empty or value == default_in_peft(key):
            return
        raise AdapterError(
            f"{folder}: the adapter has {key} = {shown(value)}, a setting that PolyRank does not know (PEFT "
            f"{settings.get('peft_version') or 'of an unknown version'} wrote it), and which may change what it "
            f"computes; if it changes nothing, take it out of {SETTINGS}"
        )
    if field.fate == "refused" and field.in_effect(value):
        raise AdapterError(
            f"{folder}: the adapter has {key}, which is more than scale * B @ A: {field.why}; expected plain LoRA"
        )
    if key == "init_lora_weights" and isinstance(value, str) and value.lower() not in LEAVES_THE_BASE:
        raise AdapterError(
            f"{folder}: the adapter has init_lora_weights {value!r:.{SHOWN}}, a start that takes something out of the "
            "base's weights, or that PolyRank does not know; expected true, false or one of "
            f"{', '.join(LEAVES_THE_BASE)}"
        )
    if key == "bias" and value not in (None, "none", "all", "lora_only"):
        raise AdapterError(f"{folder}: bias is {value!r:.{SHOWN}}; expected none, all or lora_only")
    if key == "lora_dropout" and value is not None and not is_number(value):
        raise AdapterError(f"{folder}: lora_dropout is {shown(value)}; expected a number")


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
