from __future__ import annotations

from tests.federation.conftest import configure, one_thread

__all__ = ["configure", "one_thread"]
