from __future__ import annotations

from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_imports_point_one_way():
    """The contracts of pyproject.toml: the layers of the core, and who may touch transformers and PEFT."""
    assert lint_imports(config_filename=str(Path(__file__).parents[1] / "pyproject.toml")) == EXIT_STATUS_SUCCESS
