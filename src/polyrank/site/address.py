"""Where a site listens: a Unix socket that only its owner can reach, held by one daemon at a time."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polyrank.core.errors import SiteError

WAITING = 64
"""Clients that may wait for their turn; the others are asked to try again."""
TRIES = 10
"""To take the lock: for an instant it may be a client that looks whether somebody has it."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the address, so that no second daemon can take it; ``<path>.lock`` stays behind and means nothing.

    Args:
        path: of the socket. Its directory is made if it is missing.

    Raises:
        SiteError: the directory can be used by others, the path is something else than a socket, or another daemon
            holds it. A socket that a dead daemon left is no hindrance.
    """
    check_system()
    import fcntl

    _check_length(path)
    _check_directory(path.parent)
    lock = _lock_of(path)
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SiteError(f"{lock} cannot be opened: {error.strerror}") from None
    try:
        for _ in range(TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        else:
            raise SiteError(
                f"another daemon has {path}; end it first, or give this one another --socket (one daemon per GPU)"
            )
        _remove_stale(path)
        yield
    finally:
        os.close(handle)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The socket, mode 0600; removed in the end.

    Raises:
        SiteError: the system refuses it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise SiteError(f"cannot listen on {path}: {error.strerror or error}") from None
        finally:
            os.umask(before)
        try:
            listener.listen(WAITING)
            yield listener
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def check_system() -> None:
    """Refuse a system without Unix sockets.

    Raises:
        SiteError: this is one.
    """
    if os.name != "posix":
        raise SiteError("a site's daemon needs Unix sockets, which this system lacks; let the client load the base")


def held(path: Path) -> bool:
    """Whether a daemon has the address, though it may not listen yet: it loads its base."""
    import fcntl

    try:
        handle = os.open(_lock_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _check_length(path: Path) -> None:
    """The system's limit is 108 bytes with the closing zero, on macOS 104."""
    size = len(os.fsencode(path))
    if size > 103:
        raise SiteError(f"the path of the socket has {size} bytes; expected at most 103: {path}")


def _check_directory(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise SiteError(f"there is no directory {folder.parent} to make {folder.name} in; make it first") from None
    except OSError as error:
        raise SiteError(f"the directory {folder} cannot be made: {error.strerror}") from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SiteError(f"{folder} is no directory, or a link to one; expected the directory of the socket itself")
    if found.st_uid != os.geteuid():
        raise SiteError(f"{folder} belongs to user {found.st_uid}, this is {os.geteuid()}; take a directory of yours")
    if found.st_mode & 0o077:
        own = "give the socket a directory of its own"
        shared = found.st_mode & stat.S_ISVTX  # /tmp, for root: whoever closes it stops the machine's other users
        raise SiteError(
            f"{folder} has the mode {stat.S_IMODE(found.st_mode):04o}, so others can reach it; expected 0700: "
            + (own if shared else f"chmod 700 {folder}, or {own}")
        )


def _remove_stale(path: Path) -> None:
    """What a dead daemon left; the lock has shown that nobody listens."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SiteError(f"{path} is there and is no socket; expected a free path, nothing was removed")
    path.unlink()


def connect(path: Path, connection: socket.socket) -> bool:
    """Try to connect; False if it has to be tried again: many wait already, or the daemon is still loading.

    Raises:
        SiteError: nobody listens there, or it cannot be reached.
    """
    start = f"start it: polyrank site --socket {path}"
    _check_length(path)
    try:
        connection.connect(str(path))
    except FileNotFoundError:
        if held(path):
            return False
        raise SiteError(f"there is no site's daemon at {path}; {start}") from None
    except ConnectionRefusedError:
        if held(path):
            return False
        raise SiteError(f"the site's daemon at {path} has ended, its socket is all that is left; {start}") from None
    except (BlockingIOError, TimeoutError):
        return False
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        raise SiteError(f"the site's daemon at {path} cannot be reached: {error.strerror or error}") from None
    return True
