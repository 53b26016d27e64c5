from __future__ import annotations

import pytest

from paper import cost


def test_the_seed_papers_table():
    """Byun and Lee 2024: 27,648 parameters per rank, 552,960 (2.11 MiB) at rank 20, 179,712 (0.69 MiB) at rank 6.5."""
    found = {one.what: one for one in cost.measure()}
    mixed = found["20 for a tenth, 5 for the others (mean 6.5)"]
    assert found["one rank"].lora == 27_648
    assert found["rank 20 for all"].lora == 552_960
    assert mixed.lora == 179_712
    assert f"{found['rank 20 for all'].mib:.2f}" == "2.11"
    assert f"{mixed.mib:.2f}" == "0.69"


def test_the_head_by_hand():
    """768 * 768 + 768 and 768 * 4 + 4 parameters of 4 bytes, on top of LoRA's."""
    one = cost.measure()[0]
    assert one.head == 768 * 768 + 768 + 768 * 4 + 4
    assert one.mib_with_head == pytest.approx((27_648 + one.head) * 4 / 2**20)
    assert f"| one rank | 27,648 | 0.11 | {one.head:,} |" in cost.table()
