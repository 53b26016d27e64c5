"""What is recorded of trying the wheel; the trials themselves are `make release-check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tools import audit, lowest, package, release


def failing(*_: Any, **__: Any) -> Any:
    raise package.PackageError("no such version")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / f"polyrank-{package.version()}-py3-none-any.whl").touch()
    return [sys.executable, "--wheels", str(tmp_path), "--result", str(tmp_path / "release.json")]


def test_what_fails_is_recorded_and_a_failure(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(release, "install", failing)
    assert release.main([*arguments, "--lowest"]) == 1
    (found,) = json.loads(Path(arguments[4]).read_text())
    assert (found["bounds"], found["failed"], found["suite"]) == ("lowest", "no such version", "not run")


def test_without_a_wheel_nothing_is_tried(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    next(tmp_path.glob("*.whl")).unlink()
    with pytest.raises(SystemExit):
        release.main(arguments)
    assert "has no wheel of" in capsys.readouterr().err


def test_the_tests_that_are_named_are_there():
    assert [name for name in release.SUITE if not (package.ROOT / name).exists()] == []


def test_the_record_is_of_this_version_and_nothing_failed():
    trials = json.loads(release.RESULT.read_text(encoding="utf-8"))
    assert {one["polyrank"] for one in trials} == {package.version()}
    assert {one["bounds"] for one in trials} == {"tested", "lowest"}
    assert [one["failed"] for one in trials if one["failed"]] == []


def test_the_lowest_that_were_tried_are_those_of_pyproject():
    """A lower bound that is changed has to be tried: ``python -m tools.release --lowest python3.11``."""
    pins = audit.pins(lowest.FILE.read_text(encoding="utf-8"))
    tried = next(one for one in json.loads(release.RESULT.read_text("utf-8")) if one["bounds"] == "lowest")
    for name, found in tried["versions"].items():
        assert Version(Version(found).public) == Version(pins[name]), name
