"""Plants faults in a copy of the source, one at a time: the quick tests must catch every one.

    python -m tools.faults             all of them
    python -m tools.faults rows.py     those whose file or reason has this text
    python -m tools.faults --new       those that the result does not have

The faults stand in ``tools/faults.toml``: a file below ``src/polyrank``, its text as it is, the text with the fault,
why it is one, and the tests (folders or files) that are run for it. Any fault could be looked for by the whole suite;
to end within half an hour only these tests are run, up to the first that fails, without those that are marked slow. In
the end every test that found a fault is run once more without any, so that none is "caught" by a test that fails
anyway.

What was found is kept in ``tools/faults.md``, each fault beside the first test that failed. Nothing else is changed in
the working tree: what git knows of is copied to a folder for each process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401  # what tests need is loaded once, and not for each fault
import peft  # noqa: F401
import pytest
import transformers.models.bert.modeling_bert  # noqa: F401

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "faults.toml"
RESULT = ROOT / "tools" / "faults.md"
HEAD = """# Faults that were planted, and the first test that failed with each

Written by `python -m tools.faults`: {caught} of {all} were caught.

| file | what was wrong | test |
|---|---|---|
"""
PACKAGE = Path("src") / "polyrank"
OURS = ("polyrank", "tests", "tools", "benchmarks", "paper")
FORK = multiprocessing.get_context("fork")
SECONDS = 600
"""For the tests of one fault; a fault that makes them wait for ever is not caught by an assertion."""
FAILED = 1
"""What pytest returns when tests ran and some failed; an error in collecting them is another number."""


@dataclass(frozen=True)
class Fault:
    """One change of the source that is wrong.

    Args:
        file: below ``src/polyrank``.
        old: text that is there exactly once.
        new: what stands in its place.
        why: what is wrong then.
        tests: folders or files that are run to find it, one after the other.
    """

    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: the old text is not there exactly once.
        """
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} has {self.old!r} {times} times; expected once: mend {LIST.name}")
        return text.replace(self.old, self.new)


def listed(path: Path = LIST) -> list[Fault]:
    """The faults of a list."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    return [Fault(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def check(faults: Iterable[Fault], root: Path = ROOT) -> None:
    """Refuse a list that the source has left behind.

    Raises:
        ValueError: as `Fault.planted`, or a test is not there.
    """
    for fault in faults:
        fault.planted((root / PACKAGE / fault.file).read_text(encoding="utf-8"))
        for test in fault.tests:
            if not (root / test).exists():
                raise ValueError(f"{test}, which is to find {fault.why!r}, is not there: mend {LIST.name}")


def copied(root: Path, folder: Path) -> Path:
    """All that git knows of, and files that it does not ignore, in a folder of their own."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def tested(folder: Path, tests: Sequence[str], *options: str) -> tuple[int, list[str]]:
    """What pytest returns for tests of a copy, and those that failed.

    Raises:
        RuntimeError: they could not be run, or do not end.
    """
    said = folder / "pytest.txt"
    process = FORK.Process(target=_test, args=(folder, [*options, *tests], said))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise RuntimeError(f"{tests} do not end within {SECONDS} s")
    text = said.read_text(encoding="utf-8", errors="replace")
    if process.exitcode not in (0, FAILED):
        raise RuntimeError(f"pytest returned {process.exitcode} for {tests}: {text[-2000:]}")
    return process.exitcode, re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, flags=re.MULTILINE)


def _test(folder: Path, arguments: Sequence[str], said: Path) -> None:
    """In a process of its own: it and all that it starts find the copy's packages, not those of the working tree."""
    with said.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        os.chdir(folder)
        sys.dont_write_bytecode = True  # a cache knows its source by size and second, which two faults may share
        os.environ |= {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.path[:] = [str(folder / "src"), str(folder), *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        code = pytest.main(["-q", "--tb=line", "-rfE", "-p", "no:cacheprovider", *arguments])
    os._exit(code)


def caught(fault: Fault, folder: Path) -> str | None:
    """The test that finds a fault, None where none does; the copy is afterwards as it was.

    Raises:
        RuntimeError: as `tested`.
    """
    path = folder / PACKAGE / fault.file
    before = path.read_text(encoding="utf-8")
    path.write_text(fault.planted(before), encoding="utf-8")
    try:
        for test in fault.tests:
            code, failed = tested(folder, [test], "-x")
            if code:
                return failed[0].partition("[")[0]
    finally:
        path.write_text(before, encoding="utf-8")
    return None


def found(faults: Sequence[Fault], jobs: int) -> Iterator[tuple[Fault, str | None]]:
    """Each fault with the test that finds it, and in the end once more those whose test fails without any, too."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name, ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(jobs):
            copies.put(copied(ROOT, Path(name) / str(i)))

        def in_a_copy(fault: Fault) -> str | None:
            folder = copies.get()
            try:
                return caught(fault, folder)
            finally:
                copies.put(folder)

        tests: dict[Fault, str | None] = {}
        for fault, test in zip(faults, pool.map(in_a_copy, faults), strict=True):
            tests[fault] = test
            yield fault, test
        finders = sorted({test for test in tests.values() if test})
        broken = {test.partition("[")[0] for test in tested(copies.get(), finders)[1]} if finders else set()
        yield from ((fault, None) for fault, test in tests.items() if test in broken)


def table(faults: Sequence[Fault], tests: Mapping[tuple[str, str], str]) -> str:
    """The result as a page.

    Args:
        faults: all.
        tests: by file and reason, of those that were caught.
    """
    rows = [f"| `{one.file}` | {one.why} | {tests.get((one.file, one.why), 'none')} |\n" for one in faults]
    missed = [row for row in rows if row.endswith("| none |\n")]
    return HEAD.format(caught=len(rows) - len(missed), all=len(rows)) + "".join(rows)


def read(page: str) -> dict[tuple[str, str], str]:
    """What `table` wrote of the faults that were caught."""
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (`.+?`) \|$", page, flags=re.MULTILINE)
    return {(file, why): test for file, why, test in rows}


def main() -> int:
    """Plant them; 1 if any is not caught."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", nargs="?", default="", help="only faults whose file or reason has it")
    parser.add_argument("--new", action="store_true", help="only faults that no test is known to catch yet")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    given = parser.parse_args()
    faults = listed()
    check(faults)
    known = read(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    chosen = [fault for fault in faults if given.text in f"{fault.file}: {fault.why}"]
    if given.new:
        chosen = [fault for fault in chosen if (fault.file, fault.why) not in known]
    for fault, test in found(chosen, given.jobs):
        print(f"{test or 'NOT CAUGHT'}: {fault.file}: {fault.why}", flush=True)
        known.pop((fault.file, fault.why), None)
        if test is not None:
            known[fault.file, fault.why] = f"`{test.removeprefix('tests/')}`"
        RESULT.write_text(table(faults, known), encoding="utf-8")
    missed = [fault for fault in chosen if (fault.file, fault.why) not in known]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
