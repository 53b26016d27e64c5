"""oneDNN's compiled kernels: so many are kept, unless somebody says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

from polyrank.core import kernels


def told(**environment: str) -> list[str]:
    """What holds in a new interpreter."""
    clean = {name: value for name, value in os.environ.items() if name not in kernels.CAPACITIES}
    code = f"import os, sys; import polyrank; print('torch' in sys.modules, *map(os.environ.get, {kernels.CAPACITIES}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean | environment
    )
    return done.stdout.split()


def test_few_are_kept_unless_somebody_says_otherwise():
    """Said before torch is loaded, which reads it once."""
    assert told() == ["False", "128", "128"]
    assert told(LRU_CACHE_CAPACITY="9") == ["False", "128", "9"]
