"""A deployment's SuperLink, SuperNodes, ServerApp and ClientApps send nothing away, with the switches set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import airtight

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(airtight.why_not() is not None, reason=str(airtight.why_not())),
]


def test_nothing_leaves(tmp_path: Path):
    """A federation's test with a method of its own, run where leaving is seen."""
    root, seen = Path(__file__).parents[2], tmp_path / "seen"
    test = "tests/deployment/test_federation.py::test_another_method_too"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", test]
    with airtight.inside(seen) as before:
        inside = [*before, "env", f"--chdir={root}", "POLYRANK_TESTED_METHOD=zero_padding", *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert (seen.read_text(encoding="utf-8") if seen.exists() else "") == ""
