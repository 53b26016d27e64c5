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
    """A federation's test, run where leaving is seen; it is not run a second time where it would not be."""
    root, seen = Path(__file__).parents[2], tmp_path / "seen"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow and not long", "tests/deployment/test_federation.py"]
    with airtight.inside(seen) as before:
        inside = [*before, "env", f"--chdir={root}", f"{airtight.HERE}=1", *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert (seen.read_text(encoding="utf-8") if seen.exists() else "") == ""
