"""The lowest versions that pyproject.toml allows: ``python -m tools.lowest`` writes constraints-lowest.txt.

Every lower bound ``>=`` becomes a pin, of what running needs and of all extras; what those need in turn is free. A test
compares the file with pyproject.toml, and ``python -m tools.release --lowest`` installs it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints-lowest.txt"
HEAD = "# The lowest versions that pyproject.toml allows: python -m tools.lowest\n"


def bounds(requirements: Iterable[str]) -> dict[str, str]:
    """Name -> lowest version. Other requirements for the project itself (``polyrank[secure]``) have none.

    >>> bounds(["typer>=0.15,<0.21", "flwr[simulation]>=1.41,<1.43", "polyrank[secure]"])
    {'flwr': '1.41', 'typer': '0.15'}

    Raises:
        ValueError: a requirement has no lower bound, or two of one package differ.
    """
    found: dict[str, str] = {}
    for requirement in requirements:
        try:
            wanted = Requirement(requirement)
        except InvalidRequirement:
            raise ValueError(f"{requirement!r} is no requirement; expected NAME>=VERSION") from None
        name = canonicalize_name(wanted.name)
        if name == "polyrank":
            continue
        lowest = next((bound.version for bound in wanted.specifier if bound.operator == ">="), None)
        if lowest is None:
            raise ValueError(f"{requirement!r} has no lower bound; expected NAME>=VERSION")
        if found.setdefault(name, lowest) != lowest:
            raise ValueError(f"{name} has two lower bounds, {found[name]} and {lowest}; make them one")
    return dict(sorted(found.items()))


def written(pyproject: str) -> str:
    """The file for the text of a pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].values()
    pins = bounds([*project["dependencies"], *(one for extra in extras for one in extra)])
    return HEAD + "".join(f"{name}=={version}\n" for name, version in pins.items())


if __name__ == "__main__":
    FILE.write_text(written((ROOT / "pyproject.toml").read_text(encoding="utf-8")), encoding="utf-8")
