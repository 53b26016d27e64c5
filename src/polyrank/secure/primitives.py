"""What the protocol takes from libraries, on the bytes that it needs: X25519, HKDF, ChaCha20, shares of a secret."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from polyrank.core.errors import ConfigError, SecureError

SECRET = 32
"""Bytes of a secret: a private key, a seed, a key of a cipher."""
HALF = 16
"""Bytes that `pycryptodome` makes shares of; a secret is shared in two halves, each with a polynomial of its own."""
NONCE = 12
BLOCK = 1 << 20
"""Bytes of a mask that are made at a time."""


def check_installed() -> None:
    """Refuse to go on without the packages.

    Raises:
        ConfigError: one is missing; it says what to install.
    """
    for module, package in (("cryptography", "cryptography"), ("Crypto", "pycryptodome")):
        if find_spec(module) is None:
            raise ConfigError(f"secure.enabled needs the package {package}: pip install 'polyrank[secure]'")


def fresh() -> bytes:
    """A new secret from the system's own generator: a run's seed must not tell anybody the masks."""
    return secrets.token_bytes(SECRET)


def public_of(private: bytes) -> bytes:
    """The public X25519 key of a private one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, public: bytes, purpose: str) -> bytes:
    """A key that two sides have in common, for one purpose.

    Raises:
        SecureError: the public key is none.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        common = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise SecureError(f"a public key of {len(public)} bytes is none of X25519") from None
    return derived(common, purpose)


def derived(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, by HKDF with SHA-256."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), SECRET, salt=None, info=purpose.encode()).derive(secret)


def commitment(seed: bytes) -> bytes:
    """What shows later that a seed is the one that was meant: SHA-256, which says nothing of 256 random bits."""
    return hashlib.sha256(b"polyrank seed" + seed).digest()


def add_mask(vector: np.ndarray, key: bytes, sign: int) -> None:
    """Add a mask to unsigned numbers, or take it away, in place and modulo their size.

    The mask is ChaCha20's keystream, in little endian. A key makes one mask, so the nonce is always the same.

    Args:
        vector: uint32 or uint64, contiguous.
        key: of the cipher.
        sign: 1 or -1.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    kind = vector.dtype.newbyteorder("<")
    count = BLOCK // vector.itemsize
    for start in range(0, len(vector), count):
        part = vector[start : start + count]
        mask = np.frombuffer(stream.update(bytes(part.nbytes)), kind)
        np.add(part, mask, out=part) if sign > 0 else np.subtract(part, mask, out=part)


def sealed(key: bytes, text: bytes, about: str) -> bytes:
    """A text that only who has the key can read, bound to what it is about; ChaCha20-Poly1305."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = secrets.token_bytes(NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, about.encode())


def unsealed(key: bytes, data: bytes, about: str) -> bytes:
    """What was sealed.

    Raises:
        SecureError: it was changed on the way, or is for somebody else.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(data[:NONCE], data[NONCE:], about.encode())
    except (InvalidTag, ValueError):
        raise SecureError(f"{about}: the sealed shares were changed on the way, or are not for this client") from None


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Shares of a secret, of which ``threshold`` give it back and fewer say nothing; share i is of place i + 1."""
    from Crypto.Protocol.SecretSharing import Shamir

    halves = [Shamir.split(threshold, count, secret[start : start + HALF], ssss=False) for start in (0, HALF)]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def joined(shares: Mapping[int, bytes]) -> bytes:
    """The secret of exactly ``threshold`` shares by their places, counted from 1; of wrong ones something else.

    Raises:
        SecureError: a share is of another length.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    if wrong := [len(share) for share in shares.values() if len(share) != SECRET]:
        raise SecureError(f"a share has {wrong[0]} bytes; expected {SECRET}")
    halves = [[(place, share[start : start + HALF]) for place, share in shares.items()] for start in (0, HALF)]
    return b"".join(Shamir.combine(half, ssss=False) for half in halves)
