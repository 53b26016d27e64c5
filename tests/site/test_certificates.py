from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from polyrank.core.errors import ConfigError
from polyrank.site.certificates import make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    make(folder, nodes=3, hosts=["fl.example.org", "10.1.2.3", "::1", "*.sites.example.org"])
    return folder


def handshake(folder: Path, host: str, trusted: Path | None = None, *, authority: str = "server") -> str:
    """A TLS connection on loopback whose client knows the CA alone; what it read, or the client's error raised."""
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    here.load_cert_chain(folder / f"{authority}.crt", folder / f"{authority}.key")
    there = ssl.create_default_context(cafile=str((trusted or folder) / "ca.crt"))
    there.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            try:
                with here.wrap_socket(connection, server_side=True) as secure:
                    secure.sendall(b"hello")
            except OSError:
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=20) as plain,
                there.wrap_socket(plain, server_hostname=host) as secure,
            ):
                return secure.recv(5).decode()
        finally:
            thread.join()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "fl.example.org", "10.1.2.3", "::1", "north.sites.example.org"]
)
def test_a_client_that_knows_the_ca_trusts_the_server_by_each_of_its_names(made: Path, host: str):
    assert handshake(made, host) == "hello"


def test_another_name_another_ca_and_the_ca_itself_as_a_server_are_refused(made: Path, tmp_path: Path):
    make(tmp_path / "other", nodes=0)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'example\.org'"):
        handshake(made, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(made, "localhost", tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, "localhost", authority="ca")


def test_node_keys_are_what_flower_takes(made: Path):
    """ECDSA on P-384, private and public in OpenSSH's form, each node its own."""
    seen = set()
    for i in range(3):
        private = load_ssh_private_key((made / f"node{i}").read_bytes(), None)
        text = (made / f"node{i}.pub").read_bytes()
        public = load_ssh_public_key(text)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        assert public == private.public_key()
        assert text.startswith(b"ecdsa-sha2-nistp384 ")
        seen.add(text)
    assert len(seen) == 3


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen to compare with")
def test_ssh_keygen_reads_them(made: Path):
    found = subprocess.run(["ssh-keygen", "-y", "-f", made / "node1"], capture_output=True, text=True, check=True)
    assert found.stdout.split()[:2] == (made / "node1.pub").read_text().split()[:2]


def test_private_files_are_the_owners_alone(made: Path):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    private = {"ca.key", "server.key", "node0", "node1", "node2"}
    assert {name for name, mode in modes.items() if mode == 0o600} == private
    assert set(modes) - private == {"ca.crt", "server.crt", "node0.pub", "node1.pub", "node2.pub"}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_nothing_is_replaced_and_nothing_is_left_behind(tmp_path: Path):
    (tmp_path / "node1.pub").write_text("mine")
    with pytest.raises(ConfigError, match=r"node1\.pub is already there"):
        make(tmp_path, nodes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["node1.pub"]
    assert (tmp_path / "node1.pub").read_text() == "mine"


@pytest.mark.parametrize("host", ["", "a b", "http://x", "x:8000", "300.1.1.1", "-x.org", "x..org", "a" * 64, "é.org"])
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str):
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        make(tmp_path / "new", hosts=[host])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("nodes", "days", "said"), [(-1, 1, "nodes is -1"), (1, 0, "0 days"), (1, 9999, "9999 days")])
def test_numbers_out_of_range_are_said(tmp_path: Path, nodes: int, days: int, said: str):
    with pytest.raises(ConfigError, match=said):
        make(tmp_path / "new", nodes, days=days)
