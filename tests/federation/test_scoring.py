"""Scores of clients before the first round, and which runs of a comparison share them."""

from __future__ import annotations

import pytest

from polyrank.federation.scoring import Known, score_clients
from polyrank.federation.server import build
from tests.conftest import Configure


@pytest.mark.parametrize(("proximal", "times"), [("20.0", 2), ("0.0", 1)])
def test_scores_are_shared_where_the_training_is_the_same(configure: Configure, proximal: str, times: int):
    """The proximal term is over what is sent: of fedsa A alone, of replication A and B."""
    options = ("ranks.policy=validation", f"training.proximal={proximal}", "training.lr=0.02", "training.epochs=3")
    shared: Known = {}
    losses = {}
    for method, known in (("replication", shared), ("fedsa", shared), ("fedsa", {})):
        server = build(configure(*options, f"aggregation.method={method}"))
        _, told = score_clients(server, server.initial_state(), lambda *_: None, known)
        server.close()
        losses[method, known is shared] = [own["validation_loss"] for own in told["clients"].values()]
    assert len(shared) == times
    assert losses["fedsa", True] == losses["fedsa", False]
