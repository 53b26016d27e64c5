"""JavaScript of the documentation, run by Node or, without it, in a headless Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.report.browser import visit


def evaluated(script: Path, expression: str, folder: Path) -> Any:
    """What an expression gives after a script; skipped where neither Node nor Chromium is there.

    Args:
        script: a file that defines what the expression uses.
        expression: its value is passed on as JSON.
        folder: for a page, if a browser has to be asked.
    """
    source = script.read_text(encoding="utf-8")
    if node := shutil.which("node"):
        file = folder / "script.js"
        file.write_text(f"{source}\nconsole.log(JSON.stringify({expression}));\n", encoding="utf-8")
        done = subprocess.run([node, str(file)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    page = folder / "script.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><script>{source}</script>", encoding="utf-8")
    return json.loads(visit(page, scripts=(f"JSON.stringify({expression})",)).answers[0])
