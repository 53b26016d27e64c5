"""A run folder whose JSON holds what it never does is refused with the place; found by `benchmarks.fuzz`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyrank.core.errors import RunFolderError
from polyrank.report.runs import read
from polyrank.runs import lines
from polyrank.runs.folder import RunFolder
from tests.report.folders import write_run


@pytest.mark.parametrize(
    ("name", "way", "value", "said"),
    [
        ("run", ["labels"], None, "labels"),
        ("run", ["labels", 0], 3, "labels.0"),
        ("run", ["versions"], ["torch"], "versions"),
        ("run", ["task"], {"name": "x"}, "task"),
        ("run", ["digests"], {"classes": 1}, "digests.classes"),
        ("clients", ["clients"], [], "clients"),
        ("clients", ["clients", "client-0"], None, "client-0"),
        ("clients", ["clients", "client-0", "rank"], 0, "client-0.rank"),
        ("clients", ["clients", "client-0", "rank"], "2", "client-0.rank"),
        ("clients", ["clients", "client-0", "examples"], -1, "client-0.examples"),
        ("clients", ["clients", "client-0", "labels"], [1, None, 3], "labels.1"),
        ("clients", ["scoring"], {"bytes/up": 10**30}, "bytes/up"),
        ("summary", ["rank_groups"], [{"rank": 2, "clients": 1, "accuracy": "high"}], "accuracy"),
        ("summary", ["rank_groups", 0], 7, "rank_groups.0"),
        ("summary", ["seconds"], "long", "seconds"),
        ("summary", ["memory/peak"], {"a": 1}, "memory/peak"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_place(
    tmp_path: Path, name: str, way: list[Any], value: object, said: str
):
    folder = write_run(tmp_path / "run")
    path = folder / f"{name}.json"
    found = json.loads(path.read_text())
    inner = found
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    path.write_text(json.dumps(found))
    with pytest.raises(RunFolderError, match=rf"{name}\.json is damaged: .*{said}.*put back what was there"):
        RunFolder(folder).read_json(name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("test/accuracy", "0.5"), ("test/accuracy", {"a": 1}), ("test/accuracy", [0.5]), ("test/loss", True)),
        *(("rows/owners_weight", 1.0), ("rows/energy", {"1": 2}), ("rows/energy", ["a"]), ("bytes/up", 0.5)),
        *(
            ("aggregation/error_by_module", [0.1]),
            ("test/loss_by_kind", 0.1),
            ("dropped", ["a"]),
            ("clients", {"a": 1}),
        ),
        *(("ranks", {"a": 0}), ("seconds", "1"), ("clients", [""])),
    ],
)
def test_a_lines_value_of_another_kind_is_refused_with_its_line(tmp_path: Path, key: str, value: object):
    folder = write_run(tmp_path / "run")
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts[2] = json.dumps({**json.loads(texts[2]), key: value})
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    with pytest.raises(RunFolderError, match=rf"metrics\.jsonl, line 3: .*{key}"):
        lines.read(folder / "metrics.jsonl", 1)


@pytest.mark.parametrize("key", ["bytes/up", "bytes/down", "clients", "dropped", "seconds"])
def test_a_line_without_what_all_have_is_refused(tmp_path: Path, key: str):
    folder = write_run(tmp_path / "run")
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts[2] = json.dumps({name: value for name, value in json.loads(texts[2]).items() if name != key})
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    with pytest.raises(RunFolderError, match=f"the line of round 3 has no {key}"):
        read(folder)


@pytest.mark.parametrize(("key", "value"), [("test/accuracy", 1e308), ("test/accuracy", -1), ("test/loss", -0.5)])
def test_a_value_that_no_metric_has_is_refused(tmp_path: Path, key: str, value: float):
    """An accuracy of 1e308 became a target that is infinite."""
    folder = write_run(tmp_path / "run")
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts[2] = json.dumps({**json.loads(texts[2]), key: value})
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    with pytest.raises(RunFolderError, match=rf"{key.removeprefix('test/')} is .* in round 3; expected a .*number"):
        read(folder)


@pytest.mark.parametrize("labels", [["a"], ["a", "b", "c", "d"], []])
def test_counts_of_other_labels_are_refused(tmp_path: Path, labels: list[str]):
    folder = write_run(tmp_path / "run")
    about = RunFolder(folder).read_json("run")
    del about["labels"]
    RunFolder(folder).write_json("run", about | ({"labels": labels} if labels else {}))
    with pytest.raises(
        RunFolderError, match=f"clients.json counts 3 labels of client-0, and run.json names {len(labels)}"
    ):
        read(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"labels": ["' + "x" * 10_000])
def test_json_that_is_too_deep_or_cut_off_is_refused(tmp_path: Path, text: str):
    folder = write_run(tmp_path / "run")
    (folder / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match="cannot be read"):
        RunFolder(folder).read_json("run")


def test_what_a_run_writes_and_what_nobody_knows_are_let_through(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    about = {**RunFolder(folder).read_json("run"), "of_the_future": [{"a": None}]}
    RunFolder(folder).write_json("run", about)
    assert RunFolder(folder).read_json("run") == about
    assert read(folder).rounds == [1, 2, 3, 4, 5, 6]
