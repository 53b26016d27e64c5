from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


@pytest.fixture
def loggers() -> Iterator[None]:
    """import-linter switches off the loggers that are there, of which later tests in this process read."""
    disabled = {logger: logger.disabled for logger in _loggers()}
    yield
    for logger in _loggers():
        logger.disabled = disabled.get(logger, False)


def _loggers() -> list[logging.Logger]:
    return [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]


@pytest.mark.usefixtures("loggers")
def test_imports_point_one_way():
    """The contracts of pyproject.toml: the layers of the core, and who may touch transformers and PEFT."""
    assert lint_imports(config_filename=str(Path(__file__).parents[1] / "pyproject.toml")) == EXIT_STATUS_SUCCESS
