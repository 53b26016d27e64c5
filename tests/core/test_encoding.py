from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.core.encoding import decode


@given(st.text(min_size=1).filter(lambda text: text[0] not in "\ufeff\0"))  # UTF-16's mark and NUL are UTF-32's mark
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_comes_back_without_its_mark(encoding: str, text: str):
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(("order", "mark"), [("utf-16-be", b"\xfe\xff"), ("utf-32-be", b"\0\0\xfe\xff")])
def test_both_orders_of_bytes(order: str, mark: bytes):
    assert decode(mark + "aé".encode(order)) == "aé"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_alone(encoding: str):
    with pytest.raises(UnicodeDecodeError, match="nothing follows"):
        decode("".encode(encoding))
    assert not decode(b"")


def test_a_mark_twice():
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfa") == "a"
