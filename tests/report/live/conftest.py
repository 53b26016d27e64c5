from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyrank.report.live.server import Server


@pytest.fixture
def watching() -> Iterator[Callable[..., Server]]:
    """`watching(folder, ...)`: a server that answers until the test is over."""
    servers: list[Server] = []

    def start(*folders: Path) -> Server:
        servers.append(Server(folders))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
