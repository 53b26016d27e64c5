from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Polyrank


def test_it_says_what_is_whose_and_never_replaces(polyrank: Polyrank, tmp_path: Path):
    """The CA and the server have two files each, and so has each node: 8 for two nodes."""
    found = polyrank("flower", "certificates", "tls", "--nodes", "2", "--host", "fl.example.org")
    assert found.code == 0, found.err
    assert "8 files in tls" in found.out
    assert len(list((tmp_path / "tls").iterdir())) == 8
    before = (tmp_path / "tls" / "ca.key").read_bytes()
    again = polyrank("flower", "certificates", "tls")
    assert again.code == 2
    assert "never replaced; give another directory" in again.err
    assert (tmp_path / "tls" / "ca.key").read_bytes() == before
