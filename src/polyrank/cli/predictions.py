"""What a model says of each text, as rows of a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyrank.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from polyrank.runs.measuring import Asked, Reply

Rows = Sequence[Mapping[str, Any]]  # Any: plain JSON values
SUFFIXES = (".csv", ".jsonl")
CLASSES = "probabilities"
"""Key of the classes' probabilities; in csv each has a column of its own, ``p(NAME)``."""


def check_free(file: Path) -> None:
    """Refuse a file that cannot be written, or that something else would be lost to, before the work.

    Raises:
        ConfigError: its name has another ending.
        DataError: it exists, or its folder does not.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--predictions {file}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if file.exists():
        raise DataError(f"--predictions {file} exists; choose another name, or delete it")
    if not file.parent.is_dir():
        raise DataError(f"--predictions {file}: there is no folder {file.parent}; make it first")


def of_classes(what: Asked, probabilities: np.ndarray) -> Rows:
    """Each text with its label, if it has one, the likeliest class, and each class's probability."""
    names, dataset = what.dataset.label_names, what.dataset
    rows = []
    for i, row in enumerate(what.encoded.kept.tolist()):
        label = names[int(dataset.labels[row])] if what.labelled and dataset.labels is not None else None
        own = {name: float(value) for name, value in zip(names, probabilities[i], strict=True)}
        likeliest = names[int(probabilities[i].argmax())]
        rows.append(
            {"row": dataset.row(row), "text": dataset.texts[row], "label": label, "predicted": likeliest, CLASSES: own}
        )
    return rows


def of_replies(found: Sequence[Reply]) -> Rows:
    """Each prompt with the right answer and the one that was written."""
    return [
        {
            "row": one.row,
            "prompt": one.prompt,
            "reference": one.reference,
            "answer": one.answer.text,
            "rouge_l": one.rouge_l,
            "exact": one.exact,
            "cut": one.answer.cut,
        }
        for one in found
    ]


def write(file: Path, rows: Rows) -> None:
    """Write rows as csv or as JSON lines, as the file's name says.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8", newline="") as opened:
            if file.suffix.lower() == ".jsonl":
                opened.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                return
            flat = [_flat(row) for row in rows]
            written = csv.DictWriter(opened, list(flat[0]))
            written.writeheader()
            written.writerows(flat)
    except OSError as error:
        raise DataError(f"--predictions {file} cannot be written: {error.strerror}") from None


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in row.items() if key != CLASSES}
    return plain | {f"p({name})": value for name, value in row.get(CLASSES, {}).items()}
