"""Certificates and keys for a deployment on Flower: an authority, the server's certificate, a key pair per node.

For a trial, or a federation whose members trust whoever ran this: each node's private key should reach that node alone.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from polyrank.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName, KeyUsage

ALWAYS = ("localhost", "127.0.0.1")
"""Hosts that a server's certificate always names."""
DAYS = 365
MOST_NODES = 10_000

_NAME = re.compile(r"(?:\*\.)?(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)


def make(folder: Path, nodes: int = 1, hosts: Sequence[str] = (), days: int = DAYS) -> list[Path]:
    """Write ``ca.crt``, ``server.crt``, ``node0.pub``, ... and the private ``ca.key``, ``server.key``, ``node0``, ...

    Node keys are ECDSA on P-384 in OpenSSH's form, as ``ssh-keygen -t ecdsa -b 384`` makes them. Private files have the
    mode 0600 and no password.

    Args:
        folder: made, with mode 0700, if it is missing.
        nodes: how many key pairs.
        hosts: names or addresses under which nodes reach the server, beside `ALWAYS`.
        days: for which the certificates are valid.

    Returns:
        The files, in the order in which they were written.

    Raises:
        ConfigError: a file is already there (none is ever replaced), a host is neither a name nor an address, a number
            is out of range, or the package cryptography is missing. Nothing has been left behind then.
    """
    _check_installed()
    _check_numbers(nodes, days)
    names = [_general_name(host) for host in dict.fromkeys((*ALWAYS, *hosts))]
    contents = _contents(nodes, names, days)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; give a directory of your own") from None
    if there := [name for name in contents if (folder / name).exists() or (folder / name).is_symlink()]:
        raise ConfigError(f"{folder / there[0]} is already there and is never replaced; give another directory")
    written: list[Path] = []
    try:
        for name, (data, mode) in contents.items():
            path = folder / name
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
    except OSError as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise ConfigError(f"{folder / name} cannot be written: {error.strerror}; nothing was left behind") from None
    return written


def _check_numbers(nodes: int, days: int) -> None:
    if not 0 <= nodes <= MOST_NODES:
        raise ConfigError(f"the number of nodes is {nodes}; expected 0 to {MOST_NODES}")
    if not 1 <= days <= 3650:
        raise ConfigError(f"the certificates would be valid for {days} days; expected 1 to 3650")


def _general_name(host: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _NAME.fullmatch(host) or len(host) > 253 or re.fullmatch(r"[\d.]+", host):
        raise ConfigError(f"the host {host!r} is neither a DNS name nor an IP address; expected one, without a port")
    return x509.DNSName(host.lower())


def _check_installed() -> None:
    if find_spec("cryptography") is None:
        raise ConfigError("certificates need the package cryptography: pip install 'polyrank[flower]'")


def _contents(nodes: int, names: Sequence[GeneralName], days: int) -> dict[str, tuple[bytes, int]]:
    """File name -> bytes and mode."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    def new() -> EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP384R1())

    def private(key: EllipticCurvePrivateKey, form: PrivateFormat) -> tuple[bytes, int]:
        return key.private_bytes(Encoding.PEM, form, NoEncryption()), 0o600

    authority, server = new(), new()
    ca = _authority(authority, days)
    contents = {
        "ca.key": private(authority, PrivateFormat.PKCS8),
        "ca.crt": (ca.public_bytes(Encoding.PEM), 0o644),
        "server.key": private(server, PrivateFormat.PKCS8),
        "server.crt": (_signed(server, names, ca, authority, days).public_bytes(Encoding.PEM), 0o644),
    }
    for i in range(nodes):
        key = new()
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        contents[f"node{i}"] = private(key, PrivateFormat.OpenSSH)
        contents[f"node{i}.pub"] = (public + f" node{i}\n".encode(), 0o644)
    return contents


def _authority(key: EllipticCurvePrivateKey, days: int) -> Certificate:
    """Signed by itself; it may sign servers, and no further authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA384

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PolyRank federation")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(days).subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, SHA384())


def _signed(
    key: EllipticCurvePrivateKey,
    names: Sequence[GeneralName],
    ca: Certificate,
    authority: EllipticCurvePrivateKey,
    days: int,
) -> Certificate:
    """The server's certificate: for TLS servers of these names only."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.x509.oid import ExtendedKeyUsageOID

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PolyRank server")])
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(days).subject_name(subject).issuer_name(ca.subject).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
    )
    return builder.sign(authority, SHA384())


def _builder(days: int) -> CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    # an hour back: the other side's clock may be late
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days))


def _usage(*, signs_certificates: bool) -> KeyUsage:
    from cryptography import x509

    no = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
        **no,
    )
