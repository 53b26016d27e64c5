"""The lowest versions, as pyproject.toml says them."""

from __future__ import annotations

import pytest

from tools import audit, lowest


def test_the_file_is_of_pyproject():
    """`python -m tools.lowest` brings it up to date."""
    text = (lowest.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert lowest.FILE.read_text(encoding="utf-8") == lowest.written(text)


def test_what_the_tests_run_with_is_no_older_than_the_lowest():
    pins = {name.lower().replace("_", "-"): version for name, version in audit.pins(audit.PINS.read_text()).items()}
    for name, low in audit.pins(lowest.FILE.read_text()).items():
        assert numbers(pins[name]) >= numbers(low), name


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


@pytest.mark.parametrize(
    ("requirements", "error"),
    [
        (["numpy"], "'numpy' has no lower bound"),
        (["numpy<3"], "'numpy<3' has no lower bound"),
        ([">=3"], "'>=3' is no requirement"),
        (["numpy>=2.0", "NumPy>=2.1"], "numpy has two lower bounds, 2.0 and 2.1"),
    ],
)
def test_what_gives_no_pin_is_refused(requirements: list[str], error: str):
    with pytest.raises(ValueError, match=error):
        lowest.bounds(requirements)
