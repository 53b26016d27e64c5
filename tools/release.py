"""The wheel as a user gets it, before a release: ``python -m tools.release python3.11 python3.13``.

For every Python an empty environment gets the wheel of ``dist/`` with all that it needs from the index, in the versions
of constraints.txt, or of constraints-lowest.txt with ``--lowest``. There, in a folder without a checkout, both
quickstarts have to run, whole (``--short``: one round), and then the part of the suite that asks for no checkout. What
was run, with which versions and in how many seconds, and what failed is recorded in ``tools/release.json``; an earlier
record of the same Python and bounds is replaced. A torch from PyPI has CUDA: an environment takes up to 6 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tools.package import ROOT, PackageError, run, smoke, timed, version

RESULT = ROOT / "tools" / "release.json"
SUITE = ("tests/core", "tests/aggregation", "tests/ranks", "tests/test_config.py")
"""Tests that need the package and hardly anything of the checkout."""
TESTING = ("pytest", "hypothesis", "pytest-xdist")
LISTED = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "pydantic",
    "typer",
    "click",
    "scipy",
    "plotly",
)


def install(python: str, wheel: Path, constraints: Path, folder: Path) -> Path:
    """A new environment's Python, with the wheel and what tests need."""
    run([python, "-m", "venv", folder], folder.parent)
    own = folder / "bin" / "python"
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    run([*pip, f"{wheel}[secure]", *TESTING], folder.parent)
    return own


def suite(python: Path, where: Path) -> str:
    """The last line of the tests' output, which are copied into a folder of their own."""
    shutil.copytree(ROOT / "tests", where / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CONTRIBUTING.md", where)  # which tests/core reads
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace('testpaths = ["tests", "src"]', "")
    (where / "pyproject.toml").write_text(settings, encoding="utf-8")
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={where / 'temporary'}")
    return run([python, "-m", "pytest", *options, *SUITE], where, OMP_NUM_THREADS="1").strip().splitlines()[-1]


def whole(command: Path, where: Path) -> dict[str, float]:
    """Seconds of both quickstarts, as README gives them."""
    seconds: dict[str, float] = {}
    for name in ("classification", "generative"):
        words = [command, "run", "--quickstart", name, "--out", f"whole-{name}"]
        timed(seconds, f"{name}, whole", partial(run, words, where))
    return seconds


def trial(
    python: str, bounds: str, wheel: Path, work: Path, *, short: bool = False, kept: Path | None = None
) -> dict[str, Any]:
    """What came of one Python with the ``"tested"`` or the ``"lowest"`` dependencies.

    Args:
        python: a command.
        bounds: which constraints.
        wheel: what is installed.
        work: an empty folder.
        short: no whole quickstarts.
        kept: an environment in which the wheel is installed already; else one is made.
    """
    pins = ROOT / ("constraints-lowest.txt" if bounds == "lowest" else "constraints.txt")
    found: dict[str, Any] = {
        "python": run([python, "-c", "import platform; print(platform.python_version())"], work).strip(),
        "bounds": bounds,
        "date": datetime.now(UTC).date().isoformat(),
        "polyrank": version(),
        "versions": {},
        "seconds": {},
        "suite": "not run",
        "failed": None,
    }
    seconds, where = found["seconds"], work / "elsewhere"
    try:
        made = partial(install, python, wheel, pins, work / "own")
        own = kept / "bin" / "python" if kept else timed(seconds, "install", made)
        asked = f"from importlib.metadata import version; print(*map(version, {LISTED!r}))"
        found["versions"] = dict(zip(LISTED, run([own, "-c", asked], work).split(), strict=True))
        seconds.update(smoke(own, own.with_name("polyrank"), where))
        if not short:
            seconds.update(whole(own.with_name("polyrank"), where))
        found["suite"] = timed(seconds, "suite", partial(suite, own, where))
    except PackageError as error:
        found["failed"] = str(error)[-1500:]
    return found


def recorded(trials: Sequence[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials with a new one in the place of the one of the same Python and bounds.

    >>> recorded([{"python": "3.11.7", "bounds": "tested", "failed": "x"}], {"python": "3.11.7", "bounds": "lowest"})
    [{'python': '3.11.7', 'bounds': 'lowest'}, {'python': '3.11.7', 'bounds': 'tested', 'failed': 'x'}]
    """
    kept = [one for one in trials if (one["python"], one["bounds"]) != (new["python"], new["bounds"])]
    return sorted([*kept, new], key=lambda one: (one["python"], one["bounds"]))


def table() -> str:
    """The record, a row for each trial; seconds are of this machine in whatever else it was doing."""
    rows = ["| date | version | Python | dependencies | torch, transformers, peft | installed, s | run, s | suite |"]
    rows.append("|" + "---|" * 8)
    for one in json.loads(RESULT.read_text(encoding="utf-8")):
        known, seconds = one["versions"], one["seconds"]
        whole = [seconds.get(f"{name}, whole") for name in ("classification", "generative")]
        ran = ", ".join(map(str, whole)) if all(whole) else "shortened alone"
        cells = (
            *(one["date"], one["polyrank"], one["python"], f"{one['bounds']} versions"),
            ", ".join(known.get(name, "-") for name in LISTED[:3]),
            *(seconds.get("install", "-"), ran, one["suite"].strip("= ")),
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
        if one["failed"]:
            rows.append(f"| | | | **failed**: {' '.join(one['failed'].split())[-200:]} | | | | |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--lowest", action="store_true", help="the lowest versions of dependencies")
    parser.add_argument("--short", action="store_true", help="no whole quickstarts")
    parser.add_argument("--kept", type=Path, help="an environment that has the wheel already")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    wheels = sorted(chosen.wheels.resolve().glob(f"polyrank-{version()}-*.whl"))
    if not wheels:
        parser.error(f"{chosen.wheels} has no wheel of {version()}: make package")
    failed = 0
    for python in chosen.pythons:
        with tempfile.TemporaryDirectory(prefix="polyrank-release-") as work:
            bounds = "lowest" if chosen.lowest else "tested"
            new = trial(python, bounds, wheels[-1], Path(work), short=chosen.short, kept=chosen.kept)
        trials = json.loads(chosen.result.read_text(encoding="utf-8")) if chosen.result.exists() else []
        chosen.result.write_text(json.dumps(recorded(trials, new), indent=1) + "\n", encoding="utf-8")
        print(json.dumps(new, indent=1))
        failed += new["failed"] is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
