"""A few hundred hostile inputs of each kind, the same ones each time; `benchmarks.fuzz` tries more than 100 000."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from random import Random

import pytest
from benchmarks.fuzz import mutate
from benchmarks.fuzz.__main__ import RESULT, main, table
from benchmarks.fuzz.engines import _Bytes
from benchmarks.fuzz.flower import FLOWER
from benchmarks.fuzz.mutate import Files
from benchmarks.fuzz.session import Session, put
from benchmarks.fuzz.targets import TARGETS, Target
from benchmarks.fuzz.watch import ForbiddenError, Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and pipes of Linux")


def test_hostile_inputs_are_read_or_refused_and_nothing_else_happens(tmp_path: Path):
    """In one process of its own, whose memory is limited and which may write to its folder alone."""
    found = main(
        [
            "--together",
            "--inputs",
            "1200",
            "--result",
            str(tmp_path / "fuzz.json"),
            "--findings",
            str(tmp_path / "found"),
        ]
    )
    assert found.keys() == {*TARGETS, *FLOWER}
    assert {name: one["findings"] for name, one in found.items() if one["findings"]} == {}
    for name, one in found.items():
        assert one["inputs"] == one["accepted"] + sum(one["refused"].values()) > 5, name
    assert sum(bool(one["accepted"]) for one in found.values()) > 12  # else they never get past the front door
    assert json.loads((tmp_path / "fuzz.json").read_text())["hypothesis"].keys() == found.keys()


def test_the_record_has_all_targets_and_no_finding():
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))
    found = recorded["hypothesis"]
    assert found.keys() == {*TARGETS, *FLOWER}
    assert sum(one["inputs"] for one in found.values()) == recorded["hypothesis_inputs"] >= 100_000
    assert {name: one["findings"] for name, one in found.items() if one["findings"]} == {}
    assert table(found).count("\n") == len(found) + 1


@cache
def watch() -> Watch:
    """One for a process: it stays."""
    return Watch(Path("/nowhere"))


def tried(target: Target, folder: Path, times: int = 3) -> Session:
    watch().allowed = (str(folder.resolve()),)
    session = Session(target, folder / "tree", folder / "findings", watch())
    for number in range(times):
        session(Random(number))
    return session


def one_file(_random: Random) -> Files:
    return {"message": b"x"}


def loads_a_pickle(folder: Path, out: Path) -> None:  # noqa: ARG001
    import pickle

    pickle.loads(mutate.PICKLE)


def writes_beside(folder: Path, out: Path) -> None:  # noqa: ARG001
    (folder / ".." / "evil").write_text("x")


def writes_far_away(folder: Path, out: Path) -> None:  # noqa: ARG001
    Path("/tmp/polyrank-evil").write_text("x")


def takes_memory(folder: Path, out: Path) -> None:  # noqa: ARG001
    assert len(bytearray(os.urandom(1)) * 2**28) == 2**28


def connects(folder: Path, out: Path) -> None:  # noqa: ARG001
    import socket

    socket.create_connection(("127.0.0.1", 9))


def raises(folder: Path, out: Path) -> None:  # noqa: ARG001
    raise KeyError("round")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (loads_a_pickle, "loads a pickle"),
        (writes_beside, "wrote evil|open of"),
        (writes_far_away, "open of '/tmp/polyrank-evil'"),
        (connects, "connects"),
        (raises, "KeyError at test_fuzz.py"),
        (takes_memory, "MiB of memory"),
    ],
)
def test_what_a_parser_must_not_do_is_found(tmp_path: Path, read: object, said: str):
    import re

    session = tried(Target(one_file, read), tmp_path, 1)  # type: ignore[arg-type]
    (problem,) = session.found
    assert re.search(said, problem), problem
    assert not Path("/tmp/polyrank-evil").exists()
    assert [path.name for path in (tmp_path / "findings").iterdir()]


def test_what_handles_every_error_does_not_hide_what_is_forbidden(tmp_path: Path):
    def hides(folder: Path, out: Path) -> None:
        try:
            loads_a_pickle(folder, out)
        except BaseException:
            return

    (problem,) = tried(Target(one_file, hides), tmp_path, 1).found
    assert problem.startswith(ForbiddenError.__name__)


def test_inputs_are_those_of_their_choices():
    """The same choices make the same input, whoever drew them, and leave the valid ones alone."""
    for name, target in {**TARGETS, **FLOWER}.items():
        assert [target.make(Random(n)) for n in range(20)] == [target.make(Random(n)) for n in range(20)], name
        for size in (0, 1, 64):
            assert target.make(_Bytes(bytes(range(size)))) == target.make(_Bytes(bytes(range(size))))


def test_an_input_has_links_folders_and_pipes(tmp_path: Path):
    put(
        tmp_path / "in",
        {"a/b": b"x", "c": mutate.Link("nowhere"), "d": mutate.Other("pipe"), "e": mutate.Other("folder")},
    )
    found = {path.name: path for path in (tmp_path / "in").iterdir()}
    assert (found["a"] / "b").read_bytes() == b"x"
    assert found["c"].is_symlink()
    assert found["d"].is_fifo()
    assert found["e"].is_dir()
    put(tmp_path / "in", {})
    assert list((tmp_path / "in").iterdir()) == []
