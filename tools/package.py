"""What a release is made of, built and tried: ``python -m tools.package`` (``make package``).

Source distribution and wheel are built twice, once from the checkout by way of the source distribution and once
straight from it, and have to be the same to the byte. The wheel has to hold all of ``src/polyrank`` and nothing else.
It is installed into an environment of its own that sees the dependencies of this one, and has to work there, outside of
the checkout: a method is listed, and both quickstarts train, shortened. ``dist/`` then holds both files, their SHA-256
sums, and a bill of materials (CycloneDX) of what running needs, in the versions that are installed here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from email.parser import BytesParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeVar

from packaging.requirements import Requirement

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
METADATA = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
SHORT = (
    *("federation.rounds=1", "data.limit_test=50", "evaluation.rank_groups=false", "training.workers=1"),
    *("training.precision=float32", "training.attention=eager", "training.clients_per_pass=2"),
)
"""Of both quickstarts, where it is only asked whether they run."""
CLASSIFIES = (*SHORT, "federation.clients=6", "data.limit_train=120", "ranks.validation_per_label=1")
WRITES = (*SHORT, "data.limit_train=600", "data.size=10", "federation.participation=0.1")


class PackageError(Exception):
    """The package is not as it has to be; the message says how."""


def run(command: Sequence[str | Path], where: Path, **environment: str) -> str:
    """What a command prints.

    Raises:
        PackageError: it does not end with 0.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=where, env=own | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    """What a piece of work gives; how long it took is noted under its name."""
    begin = time.monotonic()
    value = work()
    seconds[name] = round(time.monotonic() - begin, 1)
    return value


def version(root: Path = ROOT) -> str:
    """The version, from the only place where it is written: pyproject.toml."""
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def moment(root: Path = ROOT) -> str:
    """``SOURCE_DATE_EPOCH``: as it is set, or the time of the last commit."""
    return os.environ.get("SOURCE_DATE_EPOCH") or run(["git", "log", "-1", "--format=%ct"], root).strip()


def build(where: Path, root: Path = ROOT, *options: str) -> dict[str, str]:
    """Name -> SHA-256 of what was built into a folder."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", where, root]
    run(command, root, SOURCE_DATE_EPOCH=moment(root))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(where.iterdir())}


def sources(package: Path) -> set[str]:
    """Files of a package's folder, as a wheel names them."""
    return {
        file.relative_to(package.parent).as_posix()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def faults(wheel: Path, package: Path = ROOT / "src" / "polyrank") -> list[str]:
    """What is wrong with a wheel, a line each."""
    own = f"{wheel.name.split('-')[0]}-{wheel.name.split('-')[1]}.dist-info"
    wanted = sources(package) | {f"{own}/{name}" for name in METADATA}
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
        about = BytesParser().parsebytes(archive.read(f"{own}/METADATA")) if f"{own}/METADATA" in there else {}
    found = [f"{name} is missing" for name in sorted(wanted - there)]
    found += [f"{name} does not belong into a wheel" for name in sorted(there - wanted)]
    expected = {"License-Expression": "Apache-2.0", "Description-Content-Type": "text/markdown"}
    found += [
        f"{key} is {about.get(key)!r}, expected {value!r}" for key, value in expected.items() if about.get(key) != value
    ]
    return found


def smoke(python: Path, command: Path, where: Path) -> dict[str, float]:
    """Name of a step -> seconds; an installed package does what it has to, in a folder without a checkout.

    Raises:
        PackageError: a step fails, or it is not the installed package that answers.
    """
    where.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def step(name: str, words: Sequence[str | Path], expected: str) -> None:
        said = timed(seconds, name, lambda: run(words, where))
        if expected not in said:
            raise PackageError(f"{' '.join(map(str, words))} says {said[-500:]!r}, expected {expected!r} in it")

    step("place", [python, "-c", "import polyrank; print(polyrank.__file__)"], str(python.parents[1]))
    step("version", [command, "--version"], version())
    step("methods", [command, "methods"], "replication")
    for name, keys in (("classification", CLASSIFIES), ("generative", WRITES)):
        chosen = [word for key in keys for word in ("--set", key)]
        step(name, [command, "run", "--quickstart", name, "--out", name, *chosen], "run folder: ")
        if not (where / name / "adapter" / "adapter_config.json").is_file():
            raise PackageError(f"polyrank run --quickstart {name} wrote no adapter")
    return seconds


def beside(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, which sees what is installed here, but no checkout."""
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    site = next(folder.glob("lib/python*/site-packages"))
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel], folder.parent)
    return python


def needed(name: str = "polyrank") -> dict[str, str]:
    """Package -> installed version, of all that running needs, at whatever remove."""
    found: dict[str, str] = {}
    waiting = [(name, frozenset[str]())]
    seen = set()
    while waiting:
        package, extras = one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            about = distribution(package)
        except PackageNotFoundError:
            raise PackageError(f"{package} is needed and not installed") from None
        found[package.lower().replace("_", "-")] = about.version
        for text in about.requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return {package: found[package] for package in sorted(found) if package != name}


def bill(file: Path, versions: Mapping[str, str], root: Path = ROOT) -> None:
    """Write a bill of materials of these versions."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{name}=={number}\n" for name, number in versions.items()), encoding="utf-8")
        options = ("--pyproject", root / "pyproject.toml", "--mc-type", "library", "--output-reproducible", "-o", file)
        maker = [sys.executable, "-m", "cyclonedx_py", "requirements", *options, listed]
        run(maker, root, SOURCE_DATE_EPOCH=moment(root))
    components = json.loads(file.read_text(encoding="utf-8"))["components"]
    if len(components) != len(versions):
        raise PackageError(f"{file.name} has {len(components)} components, expected {len(versions)}")


def package(out: Path, work: Path) -> list[str]:
    """Build, compare, look, try; what was found, a line each.

    Raises:
        PackageError: something is not as it has to be.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("polyrank-*"):
        old.unlink()
    made = build(work / "one")
    again = build(work / "two", ROOT, "--sdist", "--wheel")
    if made != again:
        raise PackageError(f"two builds differ: {made} and {again}")
    for name in made:
        (work / "one" / name).replace(out / name)
    wheel = next(out.glob("*.whl"))
    if wrong := faults(wheel):
        raise PackageError(f"{wheel.name}:\n" + "\n".join(wrong))
    python = beside(work / "environment", wheel)
    seconds = smoke(python, python.with_name("polyrank"), work / "elsewhere")
    bill(out / f"polyrank-{version()}.cdx.json", needed())
    sums = "".join(f"{digest}  {name}\n" for name, digest in made.items())
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return [f"two builds are the same:\n{sums}".rstrip(), f"the wheel works by itself; seconds: {seconds}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="polyrank-package-") as work:
        try:
            print("\n".join(package(chosen.out, Path(work))))
        except PackageError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
