"""ROUGE-L: how much of a right answer's words stand, in their order, in what was written."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BETWEEN = re.compile(r"[^a-z0-9]+")


def words(text: str) -> list[str]:
    """The words that ROUGE knows: runs of Latin letters and digits, in lower case; of other scripts there are none.

    >>> words("Don't panic: it's 42!")
    ['don', 't', 'panic', 'it', 's', '42']
    """
    return [word for word in _BETWEEN.split(text.lower()) if word]


def rouge_l(reference: str, written: str) -> float:
    """The F measure of the longest common subsequence of words, 0 to 1, as rouge-score 0.1.2 has it without stemming.

    Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), section 3; ``2 p r / (p + r)`` with
    ``p = common / words written`` and ``r = common / words of the reference``. 0 where either has no words.

    >>> round(rouge_l("The house is red.", "red is the house"), 3)
    0.5
    """
    right, own = words(reference), words(written)
    common = _common(right, own)
    if not common:
        return 0.0
    precision, recall = common / len(own), common / len(right)
    return 2 * precision * recall / (precision + recall)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    above = [0] * (len(second) + 1)
    for one in first:
        row = [0]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if one == other else max(above[j + 1], row[j]))
        above = row
    return above[-1]
