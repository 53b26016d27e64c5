from __future__ import annotations

import dataclasses

import pytest
import torch

from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate, ServerState


@pytest.mark.parametrize("value", [ClientUpdate("ann", Adapter({}), 1.0), ServerState(0, Adapter({}), {}, {})])
def test_what_a_round_takes_in_and_gives_out_cannot_be_changed(value: ClientUpdate | ServerState):
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.adapter = Adapter({})  # type: ignore[misc]  # what is tested


def test_what_may_be_left_out_is_empty_and_not_shared():
    one, other = (ServerState(0, Adapter({}), {}, {}) for _ in range(2))
    assert one.personal == {}
    assert one.personal is not other.personal
    assert (one.base_change, one.seed) == (None, 0)
    assert ClientUpdate("ann", Adapter({}), 1.0).metrics == {}


def test_states_are_compared_by_identity_since_tensors_cannot_be():
    """A generated `==` would ask a tensor for a truth value and fail."""
    states = [ServerState(0, Adapter({}, {"head": torch.ones(2)}), {}, {}) for _ in range(2)]
    assert states[0] == states[0]
    assert states[0] != states[1]
    assert len(set(states)) == 2
