"""The configuration: TOML in, validated pydantic models out, and back to TOML.

Every value has a default, and the defaults are the quickstart: `Config()` is the federation that ``polyrank run`` runs
without arguments. Values that are ``"auto"`` are resolved when a run starts; the resolved configuration is written to
the run folder, and running that file again gives the same run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import tomlkit
from pydantic import ValidationError

from polyrank.config.privacy import PrivacyConfig
from polyrank.config.section import Section
from polyrank.config.sections import (
    AggregationConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    OutputConfig,
    RanksConfig,
    TaskConfig,
    TrainingConfig,
)
from polyrank.config.secure import SecureConfig
from polyrank.config.whole import Config
from polyrank.core.encoding import decode
from polyrank.core.errors import ConfigError, did_you_mean
from polyrank.core.files import TABLES, read_whole

__all__ = [
    "AggregationConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FederationConfig",
    "ModelConfig",
    "OutputConfig",
    "PrivacyConfig",
    "RanksConfig",
    "Section",
    "SecureConfig",
    "TaskConfig",
    "TrainingConfig",
    "dump",
    "load",
    "override",
    "parse",
]


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (or the defaults) and apply overrides such as ``training.lr=1e-3``.

    Raises:
        ConfigError: the file is missing or no TOML; a key is unknown (with the nearest known one) or a value is wrong.
    """
    values = _read(Path(path)) if path is not None else {}
    for text in overrides:
        _set(values, text)
    return parse(values, str(path) if path else "configuration")


def override(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with single values changed, as `load` does it.

    Raises:
        ConfigError: as `load`.
    """
    values = config.model_dump(exclude_unset=True)
    for text in overrides:
        _set(values, text)
    return parse(values, "configuration")


def parse(values: Mapping[str, Any], where: str) -> Config:  # Any: TOML values
    """Validate plain values.

    Raises:
        ConfigError: as `load`; the message names ``where``.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None


def dump(config: Config) -> str:
    """TOML that `load` reads back to an equal configuration; values that are None are left out."""
    return tomlkit.dumps(config.model_dump(exclude_none=True))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decode(read_whole(path)))
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}; expected a TOML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; expected a TOML file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # tomllib's own errors are ValueErrors, and not the only ones
        raise ConfigError(f"{path} is not valid TOML: {error}{_advice(path)}") from None


def _advice(path: Path) -> str:
    """What to do where a file that is no TOML is a common mistake."""
    if path.suffix.lower() in TABLES:
        return f"; it looks like data: polyrank init --data {path} writes a configuration for it"
    if re.search(rb'"[^"\n]*\\[^"\n]*"', read_whole(path)):
        return "; in double quotes a backslash begins an escape: put a path between single quotes, or write it with /"
    return ""


def _set(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or len(parts) < 2:
        raise ConfigError(f"--set {text}: expected section.key=value, for example training.lr=1e-3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()  # a bare word is a string
    table = values
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: {part} is a value, not a section")
    table[parts[-1]] = parsed


def _explain(error: ValidationError) -> str:
    """The first problem as one line."""
    first = error.errors()[0]
    name = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        *above, unknown = first["loc"]
        section = Config.model_fields[str(above[0])].annotation if above else Config
        assert isinstance(section, type)
        assert issubclass(section, Section)
        return f"{name} is not known: {did_you_mean(str(unknown), section.model_fields)}"
    if first["type"] == "model_type":
        return f"{name}: found {first['input']!r}; expected a table, [{name}]"
    message = str(first["ctx"]["error"]) if "error" in first.get("ctx", {}) else first["msg"]
    if first["type"] == "value_error":
        return f"{name}.{message}" if name else message
    return f"{name}: found {first['input']!r}; {message[0].lower()}{message[1:]}"


def _key(place: Sequence[str | int]) -> str:
    """``section.key``, with the index in a list or the key in a table.

    pydantic adds the alternative of a union that it tried, which is no part of the user's file.
    """
    section = Config.model_fields.get(str(place[0])) if place else None
    fields = getattr(section.annotation, "model_fields", {}) if section else {}
    is_table = len(place) > 1 and place[1] in fields and get_origin(fields[place[1]].annotation) is dict
    return ".".join(str(part) for i, part in enumerate(place) if i < 2 or is_table or isinstance(part, int))
