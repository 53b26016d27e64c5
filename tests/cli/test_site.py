from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Polyrank

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")


def test_wrong_use_is_said_before_anything_is_loaded(polyrank: Polyrank, tmp_path: Path):
    """Two worker processes or lanes, a cluster; a directory that others can reach; no socket."""
    tmp_path.chmod(0o755)
    for arguments, said in (
        (
            ["--socket", "x/s", "--set", "training.workers=2"],
            "training.workers is 2; a site trains one client at a time",
        ),
        (["--socket", "x/s", "--set", "training.lanes=2"], "training.lanes is 2; a site trains one client at a time"),
        (["--socket", "x/s", "--set", "training.cluster=auto"], "training.cluster is auto; a site trains one client"),
        (["--socket", "s"], "chmod 700"),
        ([], "Missing option '--socket'"),
    ):
        found = polyrank("site", *arguments)
        assert found.code == 2
        assert said in found.err
        assert not (tmp_path / "s").exists()


def test_a_fault_of_the_configuration_ends_it_and_leaves_no_socket(polyrank: Polyrank, tmp_path: Path):
    found = polyrank("site", "--socket", "x/s", "--set", "data.train=nowhere.csv")
    assert found.code == 2
    assert "nowhere.csv" in found.err
    assert not (tmp_path / "x" / "s").exists()
