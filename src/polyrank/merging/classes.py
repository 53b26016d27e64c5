"""Whether heads that meet in a merge are of the same classes, and their rows in one order."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from polyrank.core.errors import AdapterError
from polyrank.core.files import read_whole
from polyrank.hf.peft.file import AdapterFile
from polyrank.hf.peft.shared import OURS

log = logging.getLogger(__name__)

Rows = Mapping[str, list[int]]
"""Tensor -> for each row of the merged head the adapter's row; a tensor that is not there stays as it is."""


@dataclass(frozen=True)
class _Head:
    """What ``polyrank.json`` says of a head: its classes in order, and the tensors with a row for each of them."""

    classes: list[str]
    tensors: list[str]


def class_rows(files: Mapping[str, AdapterFile]) -> dict[str, Rows]:
    """Adapter -> its head's rows in the order of the first adapter that names its classes.

    Raises:
        AdapterError: heads are of different classes, or which rows are classes cannot be told.
    """
    heads = {name: head for name, file in files.items() if (head := _head(file)) is not None}
    if not heads:
        return {}
    owner, first = next(iter(heads.items()))
    rows: dict[str, Rows] = {}
    for name, head in heads.items():
        if sorted(head.classes) != sorted(first.classes):
            raise AdapterError(
                f"the heads are of different classes: {', '.join(first.classes)} in {owner}, "
                f"{', '.join(head.classes)} in {name}; heads of different classes cannot be averaged"
            )
        if head.classes != first.classes:
            if len({tensor.rpartition(".")[0] for tensor in head.tensors}) > 1:
                raise AdapterError(
                    f"{name} counts its classes in another order than {owner}, and each of {', '.join(head.tensors)} "
                    "could have a row for each of them; write one of the adapters again with the labels of the other"
                )
            order = [head.classes.index(label) for label in first.classes]
            rows[name] = dict.fromkeys(head.tensors, order)
    for name, file in files.items():
        if name not in heads and any(tensor in file.dense for tensor in first.tensors):
            log.warning(
                "%s does not say which classes its head has; its rows are taken to be %s, as in %s",
                name,
                ", ".join(first.classes),
                owner,
            )
    return rows


def _head(file: AdapterFile) -> _Head | None:
    """None where the adapter has no head, or does not say of which classes.

    Raises:
        AdapterError: it says something that cannot be.
    """
    path = file.folder / OURS
    try:
        ours = json.loads(read_whole(path))
        classes, modules = ours["labels"], tuple(f"{module}." for module in ours.get("head_modules") or ())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise AdapterError(f"{path}: labels is {classes!r:.60}; expected the names of the classes")
    if len(set(classes)) != len(classes):
        raise AdapterError(f"{path}: labels names a class twice: {', '.join(classes)}; expected different names")
    tensors = [name for name, shape in file.dense.items() if name.startswith(modules) and shape[:1] == (len(classes),)]
    return _Head(classes, tensors) if tensors else None
