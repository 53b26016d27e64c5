"""What `make package` holds against a wheel; that ours works, and is built twice alike, is for CI's own step."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tools import package

ABOUT = "License-Expression: Apache-2.0\nDescription-Content-Type: text/markdown\n\nwhat it is\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package of two files and what an interpreter leaves beside them."""
    own = tmp_path / "src" / "polyrank"
    for name in ("__init__.py", "model.safetensors", "__pycache__/__init__.cpython-311.pyc"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(name)
    return own


def wheel(where: Path, *names: str, about: str = ABOUT) -> Path:
    path = where / "polyrank-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        for name in package.METADATA:
            archive.writestr(f"polyrank-1.0.dist-info/{name}", about if name == "METADATA" else "")
    return path


def test_a_whole_wheel_has_no_faults(folder: Path, tmp_path: Path):
    assert package.faults(wheel(tmp_path, "polyrank/__init__.py", "polyrank/model.safetensors"), folder) == []


def test_what_is_missing_and_what_does_not_belong_is_named(folder: Path, tmp_path: Path):
    made = wheel(tmp_path, "polyrank/__init__.py", "polyrank/__pycache__/__init__.cpython-311.pyc", "tests/test_x.py")
    assert package.faults(made, folder) == [
        "polyrank/model.safetensors is missing",
        "polyrank/__pycache__/__init__.cpython-311.pyc does not belong into a wheel",
        "tests/test_x.py does not belong into a wheel",
    ]


def test_metadata_without_licence_and_readme_is_a_fault(folder: Path, tmp_path: Path):
    made = wheel(tmp_path, "polyrank/__init__.py", "polyrank/model.safetensors", about="Name: polyrank\n\n")
    assert package.faults(made, folder) == [
        "License-Expression is None, expected 'Apache-2.0'",
        "Description-Content-Type is None, expected 'text/markdown'",
    ]


def test_a_command_that_fails_is_said_with_its_output(tmp_path: Path):
    with pytest.raises(package.PackageError, match=r"(?s)ended with 3:\nwhy"):
        package.run([sys.executable, "-c", "import sys; print('why'); sys.exit(3)"], tmp_path)


def test_what_running_needs_is_found_at_any_remove_and_no_tool_of_ours_is():
    needed = package.needed()
    assert {"torch", "transformers", "huggingface-hub", "pydantic-core"} <= set(needed)
    assert {"polyrank", "pytest", "ruff", "mkdocs"} & set(needed) == set()


def test_packages_of_the_source_are_all_in_the_checkout():
    found = package.sources(package.ROOT / "src" / "polyrank")
    assert {"polyrank/py.typed", "polyrank/quickstart/backbone/model.safetensors"} <= found
    assert not [name for name in found if name.endswith(".pyc")]
