"""Bytes of a text file to text: UTF-8, and whatever a byte order mark says of itself."""

from __future__ import annotations

import codecs

MARKS = (  # UTF-32 first: its mark in little endian begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(raw: bytes) -> str:
    r"""The text, without the byte order marks that Windows programs write before it.

    >>> decode(b"\xef\xbb\xbfx = 1"), decode("x = 1".encode("utf-16"))
    ('x = 1', 'x = 1')

    Raises:
        UnicodeDecodeError: the bytes are not in the encoding that their mark names, or, without a mark, not UTF-8; or
            nothing follows the mark.
    """
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    text = raw.decode(encoding).lstrip("\ufeff")
    if raw and not text:
        raise UnicodeDecodeError(encoding, raw, 0, len(raw), "nothing follows the byte order mark")
    return text
