from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from polyrank.core.files import read_whole, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files of Unix")


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").symlink_to("a")
    assert read_whole(tmp_path / "a") == read_whole(tmp_path / "b") == b"x" * 100_000


@posix
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        read_whole(tmp_path / "pipe")


@posix
def test_a_device_is_not_read(tmp_path: Path):
    """It has no end: reading it took all of the memory."""
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="and no file"):
        read_whole(tmp_path / "zeros")


@posix
def test_a_folder_a_socket_and_nothing_are_errors(tmp_path: Path):
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "nothing")
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="No such device"):
            read_whole(tmp_path / "s")


def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "\ud800", tmp_path / ".a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
