"""What the audit makes of a database's answers; whether it has any for us is for ``python -m tools.audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import audit

PINS = {"left": "1.0", "right": "2.0"}
KNOWN = {
    "id": "PYSEC-1",
    "aliases": ["CVE-1", "GHSA-1"],
    "summary": "reads what it should not",
    "affected": [
        {
            "package": {"name": "Right"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
        },
        {"package": {"name": "right"}, "ranges": [{"type": "GIT", "events": [{"fixed": "abcdef"}]}]},
        {"package": {"name": "other"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "9"}]}]},
    ],
}


def answers(path: str, posted: Any) -> Any:
    """As OSV answers: nothing of left, two advisories of right, one of which was withdrawn."""
    if path == "querybatch":
        asked = [(one["package"]["name"], one["version"], one["package"]["ecosystem"]) for one in posted["queries"]]
        assert asked == [("left", "1.0", "PyPI"), ("right", "2.0", "PyPI")]
        return {"results": [{}, {"vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}]}
    assert posted is None
    return {"vulns/PYSEC-1": KNOWN, "vulns/PYSEC-2": {"id": "PYSEC-2", "withdrawn": "2026-01-01"}}[path]


def nobody(path: str, posted: Any) -> Any:  # noqa: ARG001
    raise OSError("Name or service not known")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "pins.txt").write_text("# pins\n" + "\n".join(f"{name}=={v}" for name, v in PINS.items()))
    return ["--pins", str(tmp_path / "pins.txt"), "--result", str(tmp_path / "audit.json")]


def test_a_known_vulnerability_is_named_recorded_and_a_failure(files: list[str], capsys: pytest.CaptureFixture[str]):
    assert audit.main(files, answers) == 1
    said = capsys.readouterr().out
    assert "right 2.0: PYSEC-1 (CVE-1, GHSA-1): reads what it should not; mended in 2.1\n" in said
    assert "2 pins, 1 known vulnerabilities" in said
    recorded = json.loads(Path(files[3]).read_text())
    assert (recorded["asked"], recorded["pins"]) == (True, PINS)
    assert [one["id"] for one in recorded["found"]] == ["PYSEC-1"]


def test_what_does_not_concern_us_is_no_failure(files: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "we never read that"})
    assert audit.main(files, answers) == 0
    assert json.loads(Path(files[3]).read_text())["found"][0]["accepted"] == "we never read that"


def test_a_database_that_does_not_answer_is_said_and_never_passes_for_an_audit(
    files: list[str], capsys: pytest.CaptureFixture[str]
):
    assert audit.main(files, nobody) == 3
    said = capsys.readouterr().out
    assert said.startswith("left==1.0\nright==2.0\n")
    assert "does not answer (OSError: Name or service not known); 2 pins are not audited" in said
    assert json.loads(Path(files[3]).read_text())["asked"] is False


@pytest.mark.parametrize("wrong", [{}, {"results": [{}]}, [], {"results": None}])
def test_an_answer_of_another_form_is_no_audit(files: list[str], wrong: object):
    assert audit.main(files, lambda path, posted: wrong) == 3  # noqa: ARG005


def test_a_line_that_is_no_pin_is_refused():
    with pytest.raises(ValueError, match="'numpy>=2' is no pin"):
        audit.pins("numpy>=2")


def test_the_record_is_of_the_pins_that_there_are():
    recorded = json.loads(audit.RESULT.read_text(encoding="utf-8"))
    assert recorded["pins"] == audit.pins(audit.PINS.read_text(encoding="utf-8"))
    assert recorded["asked"] or recorded["why"]
    assert [one for one in recorded["found"] if not one["accepted"]] == []
