"""What a reader of the source may rely on: a file is short, a docstring stands alone, a key says what it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from polyrank.config import Config, Section

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MOST_LINES = 300
FRAGMENT = re.compile(r"(As|Of|In|With|Without|At|And|Or|Also|But|The same,|In place)\b(?!.*\?$)")
"""How a docstring begins that cannot be read without its neighbour."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_file_is_long(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_docstring_is_a_fragment(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    said = [ast.get_docstring(node) or "It." for node in ast.walk(tree) if isinstance(node, documented)]
    assert [text for text in said if FRAGMENT.match(text)] == []


SECTIONS = {name: field.annotation for name, field in Config.model_fields.items()}


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_of_the_configuration_says_what_it_is(name: str):
    """By a sentence under it, which docs/configuration.md shows and editors do."""
    section = SECTIONS[name]
    assert isinstance(section, type)
    assert issubclass(section, Section)
    assert section.__doc__
    assert [key for key, field in section.model_fields.items() if not field.description] == []
