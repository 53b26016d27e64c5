"""What goes over a site's socket: frames of a JSON header and a body of safetensors bytes.

A frame is a prefix of 16 bytes (``PRS2``, length of the header as 4 bytes, of the body as 8, big-endian), the header,
the body. Lengths are checked against their limits before anything is read, and memory grows with what has arrived, not
with what was announced.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from polyrank.core.errors import SiteError

MAGIC = b"PRS2"
MAX_HEADER = 8 * 2**20
MAX_BODY = 8 * 2**30
"""Bytes; an adapter of rank 64 on every linear layer of a model of 70 billion parameters has about 3 GiB."""

_PREFIX = struct.Struct(">4sIQ")
_PIECE = 2**20


class Deadline:
    """When patience ends.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then.

        Raises:
            TimeoutError: it has passed.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


def start_of(header: Mapping[str, Any], body: bytes) -> bytes:
    """All of a frame but its body.

    Raises:
        SiteError: it is larger than the other side would read.
        TypeError: the header is not JSON.
    """
    text = json.dumps(header).encode()
    _check(len(text), len(body))
    return _PREFIX.pack(MAGIC, len(text), len(body)) + text


def send(connection: socket.socket, header: Mapping[str, Any], body: bytes, deadline: Deadline) -> None:
    """Write one frame.

    Raises:
        SiteError, TypeError: as `start_of`; nothing has been sent then.
        OSError: the other side is gone, or does not read before the deadline (`TimeoutError`).
    """
    for part in (start_of(header, body), body):
        connection.settimeout(deadline.left())
        connection.sendall(part)


def receive(connection: socket.socket, deadline: Deadline) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None if the other side closed the connection instead of beginning one.

    Raises:
        SiteError: what came is no frame, is too large, or stopped in the middle.
        OSError: nothing came before the deadline (`TimeoutError`), or the connection broke.
    """
    prefix = _read(connection, _PREFIX.size, deadline)
    if not prefix:
        return None
    magic, header_size, body_size = _PREFIX.unpack(_whole(prefix, _PREFIX.size))
    if magic != MAGIC:
        other = "the other side is of another version of PolyRank" if magic[:3] == MAGIC[:3] else "it is no PolyRank"
        raise SiteError(f"found {magic!r} at the start of a message, expected {MAGIC!r}: {other}")
    _check(header_size, body_size)
    text = _whole(_read(connection, header_size, deadline), header_size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SiteError(f"the header of a message is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise SiteError(f"the header of a message is a {type(header).__name__}; expected an object")
    return header, _whole(_read(connection, body_size, deadline), body_size)


def _check(header: int, body: int) -> None:
    for name, found, most in (("header", header, MAX_HEADER), ("body", body, MAX_BODY)):
        if found > most:
            raise SiteError(f"a message has a {name} of {found} bytes; expected at most {most}")


def _read(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    """So many bytes, or fewer if the other side closes the connection."""
    found = bytearray()
    while len(found) < size:
        connection.settimeout(deadline.left())
        piece = connection.recv(min(_PIECE, size - len(found)))
        if not piece:
            break
        found += piece
    return bytes(found)


def _whole(found: bytes, size: int) -> bytes:
    if len(found) < size:
        raise SiteError(f"a message stopped after {len(found)} of {size} bytes: the other side ended")
    return found


def peer_uid(connection: socket.socket) -> int | None:
    """The user on the other side of a Unix socket, where the system says so (Linux)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", data)[1]
    return uid


def seconds(value: float) -> float:
    """A timeout as given by a user.

    Raises:
        SiteError: it is no number of seconds above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise SiteError(f"the timeout is {value}; expected a number of seconds above 0")
    return float(value)
