"""Links that are written for the repository, as the site needs them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/polyrank/polyrank/blob/main/"
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "paper/FINDINGS.md": "results/FINDINGS.md",
    "paper/RESULTS.md": "results/RESULTS.md",
}
"""What of the repository is a page of the site, beside docs/."""
IN_SITE = (".md", ".svg", ".png")
"""What of docs/ is in the site; the rest is for its making."""
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def taken_in() -> dict[str, str]:
    """Path in the repository -> path in the site, of all that lies outside of docs/ and is in the site."""
    figures = sorted((ROOT / "paper" / "figures").glob("*.svg"))
    return PAGES | {f"paper/figures/{file.name}": f"results/figures/{file.name}" for file in figures}


def moved(markdown: str, origin: str, to: str) -> str:
    """A text with its relative links as they are from another file, to which it was copied.

    Args:
        markdown: as it stands in `origin`.
        origin: a file's path in the repository.
        to: the other's path.
    """

    def led(match: re.Match[str]) -> str:
        target = posixpath.join(posixpath.dirname(origin), match[2])
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(to) or '.')}{match[3]}"

    return LINK.sub(led, markdown)


def in_site(markdown: str, page: str) -> str:
    """A page's text with its relative links led to the site's pages, or else to the repository on the web.

    Args:
        markdown: as it stands in the repository.
        page: its path in the site.
    """
    known = taken_in()
    origin = next((path for path, where in known.items() if where == page), f"docs/{page}")

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[2]))
        if target in known or (target.startswith("docs/") and target.endswith(IN_SITE)):
            there = known.get(target, target.removeprefix("docs/"))
            found = posixpath.relpath(there, posixpath.dirname(page) or ".")
        elif (ROOT / target).exists():
            found = REPOSITORY + target
        else:
            found = match[2]  # MkDocs complains of it
        return f"{match[1]}{found}{match[3]}"

    return LINK.sub(led, markdown)
