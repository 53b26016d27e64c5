"""Sums over clients of which the server sees no part: a protocol of values in and values out, whatever carries them.

After Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", with a server that
follows the protocol and would like to know more. Every pair of clients agrees on a mask that one adds and the other
takes away, and each client adds one of its own. Shares of the secrets behind the masks lie with the other clients, so
that a client which drops out can be made up for. All primitives are libraries': X25519, HKDF, ChaCha20 and
ChaCha20-Poly1305 of `cryptography`, Shamir's shares of `pycryptodome`.
"""
