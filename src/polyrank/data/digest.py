"""What a data source held when it was read, in a few words that can be kept and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from polyrank.data.sources.tables import Examples

LENGTH = 16
"""Hexadecimal digits of a digest: 64 bits tell one's own files apart."""
CUT = "a part of the training data"


def described(part: str, examples: Examples) -> dict[str, str]:
    """Digests of texts, labels if any, and extra columns, in the order of the rows, wherever the source lies.

    Keys are such as "training texts"; values such as "70 rows, 05ed5a97c1ec4ea4".
    """
    columns = {"texts": examples.texts} | ({} if examples.labels is None else {"labels": examples.labels})
    columns |= {f"values of {name!r}": values for name, values in examples.columns.items()}
    return {f"{part} {name}": f"{len(values)} rows, {digest(values)}" for name, values in columns.items()}


def classes(names: tuple[str, ...]) -> str:
    """The names of the classes in their order; of many, the first ones and a digest of all."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more, {digest(names)}"


def digest(values: Iterable[str]) -> str:
    """Of strings in their order. Lengths go in too, so that a text which moves to the next row is seen."""
    found = hashlib.sha256()
    for value in values:
        raw = value.encode("utf-8", "surrogatepass")  # half of a surrogate pair can be read from JSON
        found.update(len(raw).to_bytes(8, "little") + raw)
    return found.hexdigest()[:LENGTH]
