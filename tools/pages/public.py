"""The public surface: names and signatures, declared in docs/public.txt.

A line is a name as users import it, with its signature where it has one. To make a name public, add it there without a
signature and run ``python docs/generate.py``; a signature that changes is a change for users, and shows in the file.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "docs" / "public.txt"
NAME = re.compile(r"[\w.]+")


def declared(text: str | None = None) -> list[str]:
    """The lines of the file, comments aside."""
    lines = (FILE.read_text(encoding="utf-8") if text is None else text).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def by_module() -> dict[str, list[str]]:
    """Module -> its public names, both in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in declared():
        module, _, name = _name(line).rpartition(".")
        found.setdefault(module, []).append(name)
    return found


def _name(line: str) -> str:
    match = NAME.match(line)
    assert match, f"docs/public.txt: found {line!r}; expected a dotted name"
    return match[0]


def found(name: str) -> Any:  # Any: whatever the name stands for
    """What a name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def place(name: str) -> str | None:
    """Where a class or a function is defined; None of a value."""
    value = found(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    return f"{value.__module__}.{value.__qualname__}"


def about(name: str) -> str:
    """What a value is."""
    value = found(name)
    kind = getattr(value, "kind", "")
    return f"every {kind} by its name." if kind else f"a `{type(value).__name__}`."


def written(line: str) -> str:
    """The line of a name, with its signature as it is now; the sections of a configuration have a page of their own."""
    name = _name(line)
    value = found(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)) or hasattr(value, "model_fields"):
        return name
    if getattr(value, "_is_protocol", False):
        return name
    signature = re.sub(r"(: |-> )(?:'([^']*)'|\"([^\"]*)\")", r"\1\2\3", str(inspect.signature(value)))
    return name + re.sub(r"<function .*? at \w+>", "<function>", signature)


def updated(text: str) -> str:
    """The file with every signature as it is now."""
    return "".join(
        line if not line.strip() or line.startswith("#") else written(line) + "\n"
        for line in text.splitlines(keepends=True)
    )
