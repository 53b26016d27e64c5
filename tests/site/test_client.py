"""The client of a daemon, against somebody who answers as he likes."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import SiteError
from polyrank.federation.participant import Facts
from polyrank.site.client import SiteClient
from polyrank.site.protocol import Deadline, receive, start_of
from polyrank.site.requests import Frame, framed
from polyrank.training.work import Outcome, Work

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")

WORK = Work("ann", 0, Adapter({"q": Factors(torch.ones(1, 2), torch.ones(3, 1))}), 0)


@pytest.mark.parametrize("answers", [framed(Facts(1, ())), framed(Outcome("ann"))])
def test_a_reply_of_another_kind_is_said(tmp_path: Path, answers: Frame):
    asked: list[Callable[[SiteClient], object]] = [lambda c: c.facts("ann"), lambda c: c.do(WORK)]
    wrong = asked["facts" in answers[0]]
    with pytest.raises(SiteError, match=r"the site replied (facts|outcome) at .* ann; is it of this version\?"):
        wrong(served(tmp_path / "s", start_of(*answers) + answers[1]))


def test_an_old_daemon_is_named_as_one(tmp_path: Path):
    """Which answers with an error in frames of its own: it does not know ours."""
    text = json.dumps({"error": {"kind": "SiteError", "message": "found b'PRS2'"}}).encode()
    old = served(tmp_path / "s", struct.pack(">4sIQ", b"PRS1", len(text), 0) + text)
    with pytest.raises(SiteError, match=r"^found b'PRS1' .*expected b'PRS2': the other side is of another version"):
        old.do(WORK)


def served(path: Path, answer: bytes) -> SiteClient:
    """A client of somebody who says this, whatever is asked, once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            receive(connection, Deadline(5))
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return SiteClient(path, timeout=5)


def test_a_client_of_a_daemon_loads_no_transformers():
    """It starts anew for every message of a deployment."""
    code = "import sys, polyrank.site.client; sys.exit(any(n in sys.modules for n in ('transformers', 'peft', 'flwr')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
