"""What the server measures on held-out text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyrank.adapter import Adapter
from polyrank.federation.round import personalise
from polyrank.federation.setup import Federation
from polyrank.state import ServerState
from polyrank.tasks.classification import Examples
from polyrank.training.evaluate import Scores, evaluate


def score(federation: Federation, adapter: Adapter, examples: Examples) -> Scores:
    """Metrics of one adapter with its head on one set."""
    federation.resident.install(adapter)
    return evaluate(federation.resident, examples, len(federation.labels), federation.config.evaluation.batch_size)


def score_global(federation: Federation, state: ServerState, adapter: Adapter, heads: Sequence[str]) -> Scores:
    """Test metrics of a global adapter; with local heads, the mean over the heads of the clients ``heads``."""
    if federation.config.federation.head == "mean":
        return score(federation, adapter, federation.test)
    each = [score(federation, personalise(state, client, adapter), federation.test) for client in heads]
    return Scores(*(float(np.mean([getattr(s, name) for s in each])) for name in ("loss", "accuracy", "macro_f1")))


def rank_groups(federation: Federation, state: ServerState, heads: Sequence[str]) -> dict[int, Scores]:
    """Test metrics of what each rank group is sent: the global adapter cut to its rank."""
    levels = sorted(set(state.ranks.values()))
    return {rank: score_global(federation, state, state.adapter.prefix(rank), heads) for rank in levels}
