from __future__ import annotations

import pytest

from tests.models import Checkpoints


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """``checkpoint("bert", pooler=False)`` is a folder with such a model; each kind is made once."""
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))
