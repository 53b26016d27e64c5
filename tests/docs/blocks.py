"""Code blocks of the pages: what each is, and what is said before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = (
    *("polyrank", "flwr", "flower-superlink", "flower-superexec", "flower-supernode", "make", "pip", "python", "ray"),
    *("export", "umask", "openssl", "nginx", "ssh-keygen", "vllm", "llama-server", "rsync", "cd", "curl", "mkdir"),
)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


class Block(NamedTuple):
    """One block.

    Args:
        page: its file.
        kind: ``"commands"``, ``"toml"``, ``"python"``, ``"json"`` or ``"text"``: formulas, outputs, trees.
        text: without fence and indentation.
        reason: why it is not run, where the page says so in a comment before it; else "".
        line: where it begins, from 1.
    """

    page: Path
    kind: str
    text: str
    reason: str
    line: int


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, fenced ones and those that are indented by four spaces outside of lists."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at, in_list = 0, False
    while at < len(lines):
        line = lines[at]
        if fence := re.match(r"( *)```(\w*)", line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            indent = len(fence[1])
            text = "\n".join(row[indent:] for row in lines[at + 1 : end])
            found.append(_block(page, lines, at, text, fence[2]))
            at = end + 1
            continue
        if re.match(r"(- |\d+\. )", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        if line.startswith("    ") and not in_list and at and not lines[at - 1].strip():
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(row[4:] for row in lines[at:end]).rstrip()
            found.append(_block(page, lines, at, text, ""))
            at = end
            continue
        at += 1
    return found


def _block(page: Path, lines: list[str], at: int, text: str, language: str) -> Block:
    before = NOT_RUN.search("\n".join(lines[max(0, at - 4) : at]))
    kind = {"bash": "commands", "toml": "toml", "python": "python", "json": "json", "text": "text"}.get(language)
    return Block(page, kind or _kind(text), text, before[1] if before else "", at + 1)


def _kind(text: str) -> str:
    """Of a block without a language."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.split(" ")[0] in COMMANDS:
        return "commands"
    if re.match(r"\[[a-z]+(\.[\w.]+)?\]$", first):
        return "toml"
    if re.match(r"(from|import) \w|\w+ = polyrank\.", first):
        return "python"
    return "json" if first.startswith("{") else "text"


def commands(text: str) -> list[str]:
    """The commands of a block: lines that go on are joined, and what is said beside them is left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for row in joined.splitlines() if (line := re.sub(r"(^| {2,})#.*", "", row).strip())]
