from __future__ import annotations

from dataclasses import asdict

import pytest
from benchmarks.cluster import RANKS, Round, adapter_bytes, plan, tables

FOUND = {
    "pass": {"per_pass": {"here": 0.5, "actor": 0.75}},
    "way": {"bytes": 32_000_000, "seconds": [9.0, 2.0, 1.0], "packing": 0.064, "unpacking": 0.032},
}


def test_an_adapter_of_a_seven_billion_model():
    """All linear layers of 32, at rank 1: 4 * 8192 + 3 * 15104 numbers each."""
    assert adapter_bytes(1) == 4 * 32 * (4 * 8192 + 3 * 15104)


def test_the_plan_by_hand():
    """1,000 clients in passes of 8 are 125 passes: two turns of 64 GPUs, a quarter of a second more for each."""
    asked = Round(gigabits=8.0)
    found = plan(asked, FOUND)
    size = adapter_bytes(sum(RANKS) / len(RANKS))
    assert found["computing"] == pytest.approx(2 * (found["seconds_per_pass"] + 0.25))
    assert (found["down"], found["up"]) == (5 * size * 8, 1000 * size)
    assert found["network"] == pytest.approx(1000 * size / 1e9)
    assert found["packing"] == pytest.approx(5 * size / 5e8)
    assert found["unpacking"] == pytest.approx(1000 * size / 1e9)
    assert found["adding"] > 0
    shown = tables({**FOUND, "plan": found, "round": asdict(asked)})
    assert "| in this process | 0.500 s |" in shown
    assert "1000 clients of 25,600 tokens, a 7-billion model, 64 GPUs" in shown
