"""The smallest federation that is real: the embedded model, a few of its texts, and nothing left to be measured.

Two runs of it give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyrank import config as configuration
from polyrank.config import Config

TINY = (
    *("federation.clients=4", "federation.participation=0.5", "data.limit_train=96", "data.limit_test=24"),
    *("data.partition=iid", "ranks.policy=fixed", "ranks.levels=[2,4]", "ranks.counts=[2,2]", "model.dropout=0.1"),
    *("training.precision=float32", "training.attention=eager", "training.engine=sequential", "training.workers=1"),
    *("training.lanes=1", "data.max_tokens=16", "training.batch_size=8", "evaluation.rank_groups=false"),
)
"""What is changed of the defaults."""


def tiny(*overrides: str) -> Config:
    """The federation, with more changed."""
    return configuration.load(None, [*TINY, *overrides])


def sets(overrides: Sequence[str] = ()) -> list[str]:
    """The same for ``polyrank run``."""
    return [part for text in (*TINY, *overrides) for part in ("--set", text)]
