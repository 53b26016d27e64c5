from __future__ import annotations

import numpy as np
import pytest

from polyrank.core.errors import ModelError
from polyrank.data.dataset import TextDataset
from polyrank.tasks.task import Encoded, Examples
from polyrank.training.preflight import check_reads
from tests.models import TASK, Checkpoints, resident


@pytest.mark.parametrize("head", ["model", "mean-pool"])
def test_a_text_beyond_the_positions_is_named(checkpoint: Checkpoints, head: str):
    """BERT has 40 positions; the text of 41 tokens stands in row 7 of its file."""
    model = resident(checkpoint("bert"), head=head)

    def check(longest: int) -> None:
        tokens = tuple(np.full(length, 5, dtype=np.int64) for length in (3, longest, 1))
        rows = np.array([4, 7, 9])
        dataset = TextDataset(("a", "b", "c"), np.array([0, 1, 0]), ("x", "y"), where="x.csv", rows=rows)
        check_reads(model, TASK, dataset, Encoded(Examples(tokens, dataset.labels, 0), np.arange(3)))

    check(40)
    with pytest.raises(ModelError, match=rf"head {head} cannot read .*: RuntimeError: .*has 41 tokens: x\.csv, row 7;"):
        check(41)
