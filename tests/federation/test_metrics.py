from __future__ import annotations

from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate
from polyrank.federation.metrics import own_scores
from tests.models import TASK


def test_clients_without_a_test_set_do_not_count_in_the_means_of_the_others():
    nothing = Adapter({})
    one = ClientUpdate("a", nothing, 1.0, {"loss": 1.0, "own/accuracy": 0.5, "own/loss": 2.0})
    two = ClientUpdate("b", nothing, 1.0, {"loss": 1.0, "own/accuracy": 1.0, "own/loss": 1.0})
    none = ClientUpdate("c", nothing, 9.0, {"loss": 1.0})
    by_client = {"own/accuracy_by_client": {"a": 0.5, "b": 1.0}}
    assert own_scores([one, two, none], TASK) == {"own/accuracy": 0.75, "own/loss": 1.5, **by_client}
    assert own_scores([none], TASK) == {}
