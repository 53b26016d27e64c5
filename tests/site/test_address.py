from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from polyrank.core.errors import SiteError
from polyrank.site.address import claimed, listening
from polyrank.site.client import SiteClient

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_a_missing_directory_the_socket_and_its_lock_are_the_owners_alone(tmp_path: Path, mask: int):
    """Whatever the process lets others do with new files; and that is as it was afterwards."""
    path, before = tmp_path / "new" / "s", os.umask(mask)
    try:
        with claimed(path), listening(path):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert stat.S_IMODE(path.with_name("s.lock").stat().st_mode) == 0o600
    finally:
        assert os.umask(before) == mask
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_directory_that_others_can_reach_is_refused(tmp_path: Path, mode: int):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(SiteError, match=f"has the mode {mode:04o}.*expected 0700: chmod 700"), claimed(folder / "s"):
        pass


def test_nobody_is_told_to_close_a_directory_that_all_share(tmp_path: Path):
    """To root, whose /tmp is, ``chmod 700 /tmp`` was advised."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(SiteError, match=r"mode 1777.*expected 0700: give the socket") as caught, claimed(folder / "s"):
        pass
    assert "chmod" not in str(caught.value)


def test_a_link_to_a_directory_is_refused(tmp_path: Path, private: Path):
    (tmp_path / "link").symlink_to(private)
    with pytest.raises(SiteError, match="link"), claimed(tmp_path / "link" / "s"):
        pass


def test_a_file_in_the_way_is_not_removed(private: Path):
    path = private / "s"
    path.write_text("mine")
    with pytest.raises(SiteError, match="is no socket"), claimed(path):
        pass
    assert path.read_text() == "mine"


def test_what_a_dead_daemon_left_is_replaced(private: Path):
    path = private / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with claimed(path), listening(path):
        with pytest.raises(SiteError, match="another daemon has"), claimed(path):
            pass
        assert path.exists()


def test_missing_parents_and_long_paths_are_said(tmp_path: Path, private: Path):
    with pytest.raises(SiteError, match="there is no directory"), claimed(tmp_path / "a" / "b" / "s"):
        pass
    with pytest.raises(SiteError, match="expected at most 103"), claimed(private / ("s" * 104)):
        pass
    with pytest.raises(SiteError, match="expected at most 103"):
        SiteClient(private / ("s" * 104)).facts("a")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(timeout: float):
    with pytest.raises(SiteError, match="above 0"):
        SiteClient("s", timeout)
