from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, RecordDict

from polyrank.aggregation import build
from polyrank.core.errors import FlowerError
from polyrank.flower.node_ranks import NodeRanks


def test_a_node_may_declare_any_rank_up_to_the_global_one():
    """That of the initial arrays is 4: 4 is taken, 5 is not."""
    ranks = NodeRanks(None, 4, build("owner_mean"))
    (member,) = ranks.read(7, RecordDict({"rank": ConfigRecord({"lora-rank": 4})}))
    assert (member.node, member.rank) == (7, 4)
    with pytest.raises(FlowerError, match="it declares rank 5; the initial arrays have 4"):
        ranks.read(7, RecordDict({"rank": ConfigRecord({"lora-rank": 5})}))
