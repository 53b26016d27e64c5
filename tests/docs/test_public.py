"""The public surface is what docs/public.txt says: names and signatures."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from tools.pages import public

import polyrank

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_names_and_signatures_are_as_declared():
    """`python docs/generate.py` writes signatures anew; a changed one is a change for users, said in CHANGELOG.md."""
    text = public.FILE.read_text(encoding="utf-8")
    assert public.updated(text) == text


def test_all_of_the_package_is_declared():
    assert sorted(public.by_module()["polyrank"]) == sorted(polyrank.__all__)


def test_every_public_name_has_a_docstring():
    without = [
        f"{module}.{name}"
        for module, names in public.by_module().items()
        for name in names
        if public.place(f"{module}.{name}") and not inspect.getdoc(public.found(f"{module}.{name}"))
    ]
    assert without == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_the_pages_import_is_public(page: Path):
    """Wherever a page says ``from polyrank... import ...``, under whatever module the name is declared."""
    declared = {id(public.found(f"{module}.{name}")) for module, names in public.by_module().items() for name in names}
    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(r"^\s*from (polyrank[\w.]*) import ([\w, ]+)$", text, flags=re.MULTILINE):
        for name in (part.split(" as ")[0].strip() for part in names.split(",")):
            value = getattr(import_module(module), name)
            if not inspect.ismodule(value):
                assert id(value) in declared, f"{page.name}: {module}.{name} is not in docs/public.txt"
