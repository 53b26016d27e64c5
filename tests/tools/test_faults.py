"""The list of faults, and what plants them; whether each is caught is for ``python -m tools.faults`` to find out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.faults import RESULT, ROOT, Fault, caught, check, listed, read, table


def test_every_fault_can_still_be_planted():
    """Its text is in the source exactly once; with the fault it is another source, and still one."""
    faults = listed()
    check(faults)
    assert len(faults) >= 40
    assert len({(fault.file, fault.old, fault.new) for fault in faults}) == len(faults)
    for fault in faults:
        before = (ROOT / "src" / "polyrank" / fault.file).read_text(encoding="utf-8")
        compile(fault.planted(before), fault.file, "exec")
        assert fault.planted(before) != before


def test_the_result_is_of_this_list_and_all_were_caught():
    faults, page = listed(), RESULT.read_text(encoding="utf-8")
    assert read(page).keys() == {(fault.file, fault.why) for fault in faults}
    assert table(faults, read(page)) == page
    assert f"{len(faults)} of {len(faults)} were caught" in page


@pytest.mark.parametrize(("old", "times"), [("no such text", 0), ("import", 2)])
def test_a_text_that_is_not_there_once_is_refused(old: str, times: int):
    with pytest.raises(ValueError, match=f"core/shares.py has {old!r} {times} times; expected once"):
        check([Fault("core/shares.py", old, "", "nothing", ())])


def test_a_test_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="tests/none, which is to find 'nothing', is not there"):
        check([Fault("core/shares.py", "import math", "import cmath as math", "nothing", ("tests/none",))])


def test_a_fault_is_caught_by_a_test_that_fails_and_the_copy_is_as_it_was(tmp_path: Path):
    """A small project: one test of a sum, none of a difference, and one that cannot be loaded."""
    source, tests = tmp_path / "src" / "polyrank", tmp_path / "tests"
    text = "def add(a, b):\n    return a + b\n\n\ndef without(a, b):\n    return a - b\n"
    for folder in (source, tests):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (source / "sums.py").write_text(text)
    (tests / "test_sums.py").write_text(
        "from polyrank.sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    (tests / "test_odd.py").write_text("import nothing_of_this_name\n")
    one, other = ("a + b", "a - b", "a sign"), ("a - b", "a + b", "another sign")
    assert caught(Fault("sums.py", *one, ("tests/test_sums.py",)), tmp_path) == "tests/test_sums.py::test_add"
    assert caught(Fault("sums.py", *other, ("tests/test_sums.py",)), tmp_path) is None
    with pytest.raises(RuntimeError, match="pytest returned 2"):
        caught(Fault("sums.py", *one, ("tests/test_odd.py",)), tmp_path)
    assert (source / "sums.py").read_text() == text
