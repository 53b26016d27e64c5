from __future__ import annotations

import numpy as np
import pytest

from polyrank.core.errors import SecureError
from polyrank.secure import primitives

ZEROS = bytes(32)
STREAM = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
"""The first bytes of ChaCha20's keystream for a key and a nonce of zeros: RFC 8439, appendix A.1, test vector 1."""


@pytest.mark.parametrize("kind", ["uint32", "uint64"])
def test_a_mask_is_chacha20s_keystream_in_little_endian(kind: str):
    found = np.zeros(32 // np.dtype(kind).itemsize, kind)
    primitives.add_mask(found, ZEROS, 1)
    np.testing.assert_array_equal(found, np.frombuffer(bytes.fromhex(STREAM), np.dtype(kind).newbyteorder("<")))


def test_a_long_mask_goes_on_and_its_inverse_takes_it_away():
    """Of more than two blocks, no part of it comes twice."""
    count = 2 * primitives.BLOCK // 4 + 5
    found = np.full(count, 7, np.uint32)
    primitives.add_mask(found, ZEROS, 1)
    block = primitives.BLOCK // 4
    assert np.mean(found[:block] == found[block : 2 * block]) < 1e-4
    primitives.add_mask(found, ZEROS, -1)
    np.testing.assert_array_equal(found, np.full(count, 7, np.uint32))


def test_both_sides_agree_on_a_key_for_each_purpose():
    one, other = primitives.fresh(), primitives.fresh()
    keys = {
        purpose: (
            primitives.agreed(one, primitives.public_of(other), purpose),
            primitives.agreed(other, primitives.public_of(one), purpose),
        )
        for purpose in ("masks", "shares")
    }
    assert all(mine == theirs for mine, theirs in keys.values())
    assert keys["masks"] != keys["shares"]


def test_what_is_sealed_is_read_by_who_has_the_key_and_for_what_it_is_about():
    key, text = primitives.fresh(), b"a share"
    data = primitives.sealed(key, text, "a for b")
    assert primitives.unsealed(key, data, "a for b") == text
    assert text not in data
    assert data != primitives.sealed(key, text, "a for b")
    for bad in ((primitives.fresh(), data, "a for b"), (key, data, "a for c"), (key, data[:-1], "a for b")):
        with pytest.raises(SecureError, match="changed on the way"):
            primitives.unsealed(*bad)


def test_any_threshold_of_the_shares_give_the_secret_and_fewer_another():
    secret = primitives.fresh()
    shares = dict(enumerate(primitives.split(secret, 3, 5), 1))
    for places in ((1, 2, 3), (5, 3, 1), (2, 4, 5)):
        assert primitives.joined({place: shares[place] for place in places}) == secret
    assert primitives.joined({place: shares[place] for place in (1, 2)}) != secret
    assert secret not in shares.values()
    with pytest.raises(SecureError, match="a share has 31 bytes"):
        primitives.joined({1: shares[1][1:], 2: shares[2], 3: shares[3]})
