"""Heads that meet in a merge: rows are classes, whatever their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank import merge
from polyrank.core.errors import AdapterError
from tests.merging.folders import replace_tensors, tensors_of, write

CLASSES = ("neg", "mixed", "pos")
WEIGHT, BIAS = "classifier.weight", "classifier.bias"


def headed(folder: Path, value: float, classes: Sequence[str], **ours: Any) -> Path:
    """An adapter whose row of a class is 10, 20 or 30 (in the order of `CLASSES`) plus a value, in each column."""
    write(folder, dense={WEIGHT: (3, 4), BIAS: (3,)})
    rows = torch.tensor([10.0 * (1 + CLASSES.index(name)) + value for name in classes])
    replace_tensors(folder, {**tensors_of(folder), WEIGHT: rows[:, None].repeat(1, 4), BIAS: rows})
    about = {"model": {"name": "some/base"}, "labels": list(classes), "head_modules": ["classifier"], **ours}
    (folder / "polyrank.json").write_text(json.dumps(about))
    return folder


def test_rows_are_averaged_by_their_classes(tmp_path: Path):
    """Values 1 and 3 with the weights 3 and 1: 10, 20 and 30 plus (3 * 1 + 1 * 3) / 4 = 1.5, in the first's order."""
    a = headed(tmp_path / "a", 1, ("pos", "neg", "mixed"))
    b = headed(tmp_path / "b", 3, ("neg", "mixed", "pos"))
    merged = merge([a, b], [3, 1])
    assert merged.adapter.dense[BIAS].tolist() == [31.5, 11.5, 21.5]
    assert merged.adapter.dense[WEIGHT].tolist() == [[31.5] * 4, [11.5] * 4, [21.5] * 4]
    merged.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/polyrank.json").read_text())["labels"] == ["pos", "neg", "mixed"]


def test_heads_of_other_classes_are_refused(tmp_path: Path):
    a = headed(tmp_path / "a", 1, CLASSES)
    b = headed(tmp_path / "b", 1, CLASSES, labels=["neg", "mixed", "good"])
    with pytest.raises(AdapterError, match=r"of different classes: neg, mixed, pos in .*/a, neg, mixed, good"):
        merge([a, b])
    # of weight 0 it is not there
    merge([a, b], [1, 0])


def test_an_adapter_that_does_not_name_its_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    a, b = headed(tmp_path / "a", 1, CLASSES), headed(tmp_path / "b", 1, CLASSES)
    merge([a, b])
    assert not caplog.text
    (b / "polyrank.json").unlink()
    merge([a, b])
    assert "/b does not say which classes its head has; its rows are taken to be neg, mixed, pos, as in" in caplog.text


def test_rows_that_could_be_something_else_are_refused(tmp_path: Path):
    """A layer of three outputs before the classes: which of both is turned cannot be told."""
    folders = [headed(tmp_path / "a", 1, CLASSES), headed(tmp_path / "b", 1, CLASSES[::-1])]
    for folder in folders:
        replace_tensors(folder, {**tensors_of(folder), "pre.weight": torch.ones(3, 4)})
        about = json.loads((folder / "polyrank.json").read_text())
        (folder / "polyrank.json").write_text(json.dumps({**about, "head_modules": ["classifier", "pre"]}))
    with pytest.raises(AdapterError, match=r"another order than .*/a, and each of .*pre.weight"):
        merge(folders)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"labels": ["a", "a", "b"], "head_modules": ["classifier"]}', "names a class twice"),
        ('{"labels": [1, 2, 3], "head_modules": ["classifier"]}', r"labels is \[1, 2, 3\]"),
        ('{"labels": "abc", "head_modules": ["classifier"]}', "labels is 'abc'"),
        ('{"labels": ["a", "b", "c"], "head_modules": 5}', "cannot be read"),
    ],
)
def test_a_damaged_file_of_classes(tmp_path: Path, content: str, said: str):
    folders = [headed(tmp_path / "a", 1, CLASSES), headed(tmp_path / "b", 1, CLASSES)]
    (folders[1] / "polyrank.json").write_text(content)
    with pytest.raises(AdapterError, match=rf"/b/polyrank.json.*{said}"):
        merge(folders)
