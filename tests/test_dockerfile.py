"""The Dockerfile: what it may do, and its steps in a folder of their own, since not every machine has Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


def instructions() -> list[tuple[str, str]]:
    """Name and rest of every instruction, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_it_starts_from_a_tag_and_ends_as_nobody_in_particular():
    (base,) = of("FROM")
    assert re.fullmatch(r"python:3\.1[1-3]-[\w.-]+", base)
    assert of("USER") == ["1000"]
    assert of("ENTRYPOINT") == ['["polyrank"]']


def test_it_takes_the_wheel_and_the_tested_versions_and_no_secret():
    assert of("ADD") == []
    (copied,) = of("COPY")
    assert copied == "constraints.txt dist/polyrank-*.whl /tmp/polyrank/"
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert allowed[1:] == ["*", "!constraints.txt", "!dist/*.whl"]
    assert not re.search(r"(?i)token|password|secret|api_?key", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint comes with the extra test on Linux")
def test_a_linter_has_nothing_to_say():
    assert HADOLINT
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.long  # installs all that running needs into an empty environment
def test_its_steps_give_a_command_that_works(tmp_path: Path):
    """COPY and RUN with the folder in the place of the image, an environment as its Python, and no user added."""
    wheels = sorted((ROOT / "dist").glob("polyrank-*.whl"))
    if not wheels:
        pytest.skip("no wheel in dist/; make package")
    place = tmp_path / "polyrank"
    place.mkdir()
    for file in (ROOT / "constraints.txt", *wheels):
        shutil.copy(file, place)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True, timeout=300)
    (step,) = of("RUN")
    step = re.sub(r"&& useradd[^&]*", "", step).replace("/tmp/polyrank", str(place))
    step = step.replace("python -m pip", f"{tmp_path}/image/bin/python -m pip")
    subprocess.run(["sh", "-ec", step], cwd=tmp_path, check=True, timeout=3600)
    assert not place.exists()
    said = subprocess.run(
        [tmp_path / "image" / "bin" / "polyrank", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "run" in said.stdout
