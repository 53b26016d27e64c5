"""A share of a number of things, as a whole number."""

from __future__ import annotations

import math


def part_of(count: int, share: float) -> int:
    """So many of ``count`` as ``share`` says, rounded half up.

    Python's ``round`` takes the even neighbour: a tenth of 25 would be 2, and of 35 it would be 4. A share is meant as
    the decimal number that was written down: 0.145 of 100 is 14.5, though the product of floats is a little less.

    >>> [part_of(25, 0.1), part_of(35, 0.1), part_of(100, 0.145), part_of(24, 0.1)]
    [3, 4, 15, 2]
    """
    return math.floor(round(count * share, 9) + 0.5)
