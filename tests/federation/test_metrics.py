from __future__ import annotations

from polyrank.federation.metrics import own_scores, travelled
from polyrank.training.work import Moved, Outcome
from tests.models import TASK


def test_clients_without_a_test_set_do_not_count_in_the_means_of_the_others():
    one = Outcome("a", {}, 1.0, {"loss": 1.0}, scores={"accuracy": 0.5, "loss": 2.0})
    two = Outcome("b", {}, 1.0, {"loss": 1.0}, scores={"accuracy": 1.0, "loss": 1.0})
    none = Outcome("c", {}, 9.0, {"loss": 1.0})
    by_client = {"own/accuracy_by_client": {"a": 0.5, "b": 1.0}}
    assert own_scores([one, two, none], TASK) == {"own/accuracy": 0.75, "own/loss": 1.5, **by_client}
    assert own_scores([none], TASK) == {}


def test_what_travelled_adds_up_and_nothing_is_not_zero():
    """Where nobody is elsewhere nothing travels; a client that was asked and did not answer was sent something."""
    assert travelled([None, None]) is None
    assert travelled([Moved(10, 3), None, Moved(down=10)]) == Moved(20, 3)
