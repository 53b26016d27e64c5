"""Which versions a test runs with: what it asserts of the tested ones may be more than what older ones do."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from packaging.version import Version

from tools import audit


@cache
def as_tested(package: str) -> bool:
    """Whether a package is installed in the version of constraints.txt, or a newer one."""
    pins = audit.pins(audit.PINS.read_text(encoding="utf-8"))
    return Version(version(package)) >= Version(pins[package])
