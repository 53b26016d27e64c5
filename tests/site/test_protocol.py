from __future__ import annotations

import socket

import pytest

from polyrank.core.errors import SiteError
from polyrank.site.protocol import Deadline, receive, start_of

BODY = b"xyz"
FRAME = start_of({}, BODY) + BODY
"""16 bytes before the header, which is ``{}``, and three of body."""


def received(data: bytes) -> tuple[dict[str, object], bytes] | None:
    """What comes of bytes after which the other side ends."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        return receive(here, Deadline(20))


def test_a_frame_is_read_and_the_end_between_frames_is_none():
    assert received(FRAME) == ({}, BODY)
    assert received(b"") is None


@pytest.mark.parametrize(("size", "found", "whole"), [(15, 15, 16), (17, 1, 2), (20, 2, 3)])
def test_a_frame_that_lacks_the_last_byte_of_a_part_is_refused(size: int, found: int, whole: int):
    with pytest.raises(SiteError, match=f"stopped after {found} of {whole} bytes"):
        received(FRAME[:size])
