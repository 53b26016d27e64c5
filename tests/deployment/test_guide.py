"""What the deployment guide says is done as it is written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_the_secret_is_its_owners_from_the_moment_it_is_there(tmp_path: Path):
    """A shell makes the file before openssl runs: the one here looks at its mode, under the usual umask of 022."""
    text = GUIDE.read_text(encoding="utf-8")
    (block,) = [
        part for part in re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE) if "> superexec.secret" in part
    ]
    seen = tmp_path / "openssl"
    seen.write_text("#!/bin/sh\nstat -c %a superexec.secret > mode\necho 0123\n", encoding="utf-8")
    seen.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", f"umask 022\n{block}"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "mode").read_text(encoding="utf-8").strip() == "600"
    assert (tmp_path / "superexec.secret").read_text(encoding="utf-8") == "0123\n"
