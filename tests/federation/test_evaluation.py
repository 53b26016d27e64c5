from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyrank.federation.evaluation import rank_groups, score, score_global
from polyrank.federation.setup import Federation, build
from tests.federation.conftest import Configure

BIAS = "classifier.bias"


@pytest.fixture(scope="module")
def local(configure: Configure) -> Federation:
    return build(configure("federation.head=local"))


def always(federation: Federation, label: int) -> dict[str, Tensor]:
    """A head that answers one label whatever the text."""
    head = federation.initial_state().adapter.dense
    bias = torch.full_like(head[BIAS], -1000.0)
    bias[label] = 1000.0
    return {name: torch.zeros_like(tensor) for name, tensor in head.items()} | {BIAS: bias}


def test_local_heads_are_scored_one_by_one_and_averaged(local: Federation):
    """ann's head is right on share q of the texts and bob's on 1 - q; the mean is 1/2, and eve's does not count.

    A wrong answer costs 2000 nats, so the mean loss is 2000 ((1 - q) + q) / 2 = 1000.
    """
    clients = local.clients[:3]
    personal = dict(zip(clients, [always(local, 0), always(local, 1), always(local, 1)], strict=True))
    state = replace(local.initial_state(), personal=personal)
    share = float((local.test.labels == 0).mean())
    assert score_global(local, state, state.adapter, clients[:1]).accuracy == pytest.approx(share)
    both = score_global(local, state, state.adapter, clients[:2])
    assert both.accuracy == pytest.approx(0.5)
    assert both.loss == pytest.approx(1000)


def test_a_client_without_a_head_of_its_own_is_scored_with_the_initial_one(local: Federation):
    state = local.initial_state()
    assert score_global(local, state, state.adapter, local.clients[:1]) == score(local, state.adapter, local.test)


def test_an_averaged_head_is_scored_once_whoever_took_part(configure: Configure):
    federation = build(configure())
    state = federation.initial_state()
    assert score_global(federation, state, state.adapter, ()) == score(federation, state.adapter, federation.test)


def test_each_rank_group_is_scored_with_what_it_is_sent(configure: Configure):
    """Rows 2 and 3 shift the logits by a lot, rows 0 and 1 by nothing: only the rank-4 group sees them."""
    federation = build(configure("ranks.scaling=lora"))
    start = federation.initial_state()

    def loud(b: Tensor) -> Tensor:
        return torch.cat([b[:, :2], torch.ones_like(b[:, 2:])], dim=1)

    modules = {name: replace(factors, b=loud(factors.b)) for name, factors in start.adapter.modules.items()}
    state = replace(start, adapter=replace(start.adapter, modules=modules))
    groups = rank_groups(federation, state, ())
    assert list(groups) == [2, 4]
    assert groups[2] == score(federation, start.adapter, federation.test)
    assert groups[4] == score(federation, state.adapter, federation.test)
    assert groups[2].loss != groups[4].loss
