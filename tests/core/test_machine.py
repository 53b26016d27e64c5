"""What a machine can do."""

from __future__ import annotations

import torch

from polyrank.core.machine import gflops


def test_the_rate_of_a_machine():
    assert 0.01 < gflops(torch.float32) < 1e6
