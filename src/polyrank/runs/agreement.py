"""Whether what is asked for now is what a run folder holds: configuration with configuration, data with data.

A configuration is compared with what was asked for (requested.toml), so that a value which is not set now agrees with
one which was not set then, and with nothing else; or with what that was resolved to (config.toml), whose values are
all set. Where data and model lie may change: what they hold is compared by digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.config import Config, PrivacyConfig, SecureConfig, TaskConfig
from polyrank.config.sections import HOW
from polyrank.core.errors import RunFolderError

SOURCES: Mapping[str, tuple[str, ...]] = {"data": ("train", "test"), "model": ("name", "revision")}
"""Where data and model lie; digests say what they hold."""
_MAY_CHANGE: Any = {  # Any: the shape that pydantic's `exclude` takes
    "output": True,
    "evaluation": True,
    "federation": {"rounds"},
    "training": set(HOW),
    **{section: set(keys) for section, keys in SOURCES.items()},
}
"""What a resumed run may change."""
_LATER = {
    "model": ("quantization",),
    "data": ("hold_out", "format", "prompt", "completion", "messages", "template"),
    "aggregation": ("robust", "robust_options", "server", "server_lr", "server_options"),
    "training": ("accumulate", "rounds_decay", "proximal"),
}
"""Keys that an earlier version did not have: at their defaults they say nothing."""

STDLIB_DOCS = "stdlib-docs"


@dataclass(frozen=True)
class Asked:
    """A run's configuration as it was asked for, and what it was resolved to."""

    requested: Config
    resolved: Config

    def agreed(self, now: Config, folder: Path) -> Asked:
        """The configurations of the run that goes on: the saved values, and what may change of ``now``.

        Raises:
            RunFolderError: another value differs; each one is named.
        """
        before, after = self.requested.model_dump(exclude=_MAY_CHANGE), self.resolved.model_dump(exclude=_MAY_CHANGE)
        changed = [
            f"{section}.{key} is {_there(before[section][key], after[section][key])} there and {_shown(value)} here"
            for section, values in now.model_dump(exclude=_MAY_CHANGE).items()
            for key, value in values.items()
            if value not in (before[section][key], after[section][key])
        ]
        rounds, planned = now.federation.rounds, (self.requested.federation.rounds, self.resolved.federation.rounds)
        if self.resolved.training.rounds_decay != "none" and rounds not in planned:
            changed.append(
                f"federation.rounds is {_there(*planned)} there and {rounds} here, and training.rounds_decay is a "
                "schedule over all of them"
            )
        if changed:
            raise RunFolderError(
                f"{folder}: the run is of another configuration: {'; '.join(changed)}. Go on without these changes, or "
                "start a new run with another --out"
            )
        return Asked(_moved_on(self.requested, now), _moved_on(self.resolved, now))


def _moved_on(saved: Config, now: Config) -> Config:
    """A saved configuration with what may change taken from ``now``; how to train stays where that leaves it open."""
    fixed = saved.training.rounds_decay != "none"
    how = {key: getattr(now.training, key) for key in HOW if getattr(now.training, key) != "auto"}
    changes: dict[str, Mapping[str, Any]] = {  # Any: values of the configuration
        "federation": {"rounds": saved.federation.rounds if fixed else now.federation.rounds},
        "training": how,
        **{section: {key: getattr(getattr(now, section), key) for key in keys} for section, keys in SOURCES.items()},
    }
    sections = {name: getattr(saved, name).model_copy(update=values) for name, values in changes.items()}
    return saved.model_copy(update={**sections, "output": now.output, "evaluation": now.evaluation})


@dataclass(frozen=True)
class Record:
    """What a run folder says of the data and the model that it was made with.

    Args:
        folder: it.
        digests: what they held.
        config: where they lay.
        python: the version that read them.
    """

    folder: Path
    digests: Mapping[str, str]
    config: Config
    python: str

    def check(self, found: Mapping[str, str], config: Config, python: str) -> None:
        """Refuse other data, labels or weights than the run was made with.

        Args:
            found: digests of what there is now.
            config: where it lies.
            python: the version that reads it.

        Raises:
            RunFolderError: something differs; each is named, with both places where they are not the same.
        """
        if not (changed := differences(self.digests, found)):
            return
        there, here = _places(self.config), _places(config)
        moved = [f"{key} is {_shown(there[key])} there and {_shown(here[key])} here" for key in there]
        moved = [text for key, text in zip(there, moved, strict=True) if there[key] != here[key]]
        if STDLIB_DOCS in (config.data.train, config.data.test) and python != self.python:
            moved.append(
                f"{STDLIB_DOCS} is the text of the Python that reads it, {self.python} there and {python} here"
            )
        raise RunFolderError(
            f"{self.folder}: the data or the model changed since the run was made: {'; '.join([*changed, *moved])}. "
            "Go on with what it was made with, or start a new run with another --out"
        )


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Each thing that is not the same, with both of its descriptions."""
    return [
        f"{name} were {there.get(name, 'none')} and are {here.get(name, 'none')}"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]


def fingerprint(config: Config, digests: Mapping[str, str]) -> str:
    """A checksum of all that a resumed run may not change: of its configuration, its data and its model."""
    asked = config.model_dump(mode="json", exclude=_MAY_CHANGE)
    if config.task == TaskConfig(name="classification"):  # a run that is older than the section has none
        del asked["task"]
    if config.privacy == PrivacyConfig():
        del asked["privacy"]
    if config.secure == SecureConfig():  # the same
        del asked["secure"]
    for section, keys in _LATER.items():
        defaults = type(getattr(config, section))().model_dump(mode="json")
        for key in keys:
            if asked[section][key] == defaults[key]:
                del asked[section][key]
    if config.training.rounds_decay != "none":
        asked["federation"]["rounds"] = config.federation.rounds
    values = [asked, dict(digests)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _places(config: Config) -> dict[str, str | None]:
    return {f"{name}.{key}": getattr(getattr(config, name), key) for name, keys in SOURCES.items() for key in keys}


def _there(requested: Any, resolved: Any) -> str:  # Any: values of the configuration
    if requested == resolved:
        return _shown(requested)
    return f"{_shown(requested)}, resolved to {_shown(resolved)}," if requested is not None else _shown(resolved)


def _shown(value: Any) -> str:  # Any: values of the configuration
    return "not set" if value is None else repr(value)
