from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyrank.aggregation import Download
from polyrank.core.adapter import Adapter
from polyrank.federation.evaluation import rank_groups, score, score_global
from polyrank.federation.setup import Federation, build
from tests.conftest import Configure

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
    share = float((local.test.targets == 0).mean())
    assert score_global(local, state, clients[:1])["accuracy"] == pytest.approx(share)
    both = score_global(local, state, clients[:2])
    assert both["accuracy"] == pytest.approx(0.5)
    assert both["loss"] == pytest.approx(1000)


def test_a_client_without_a_head_of_its_own_is_scored_with_the_initial_one(local: Federation):
    state = local.initial_state()
    assert score_global(local, state, local.clients[:1]) == score(local, Download(state.adapter), local.test)


def test_an_averaged_head_is_scored_once_whoever_took_part(configure: Configure):
    federation = build(configure())
    state = federation.initial_state()
    assert score_global(federation, state, ()) == score(federation, Download(state.adapter), federation.test)


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
    assert groups[2] == score(federation, Download(start.adapter), federation.test)
    assert groups[4] == score(federation, Download(state.adapter), federation.test)
    assert groups[2]["loss"] != groups[4]["loss"]


def test_a_base_change_is_part_of_the_global_model(configure: Configure):
    """As a base change or as the adapter, the same update gives the same scores; without it, others."""
    federation = build(configure("aggregation.method=flora"))
    start = federation.initial_state()
    loud = Adapter({name: replace(f, b=torch.ones_like(f.b)) for name, f in start.adapter.modules.items()})
    changed = score_global(federation, replace(start, base_change=loud), ())
    as_adapter = score_global(federation, replace(start, adapter=replace(loud, dense=start.adapter.dense)), ())
    assert changed["loss"] == pytest.approx(as_adapter["loss"], rel=1e-5)
    assert abs(changed["loss"] - score_global(federation, start, ())["loss"]) > 1e-3
    assert rank_groups(federation, replace(start, base_change=loud), ())[2] == pytest.approx(changed)


def test_personal_factors_are_scored_with_their_client(configure: Configure):
    """ann's B is loud and bob's is the server's zero: the mean of two losses, and each in its own rank group."""
    federation = build(configure("aggregation.method=fedsa"))
    start = federation.initial_state()
    ann, bob = federation.clients[0], federation.clients[-1]
    assert (start.ranks[ann], start.ranks[bob]) == (4, 2)
    loud = {name: replace(f, b=torch.ones_like(f.b)) for name, f in start.adapter.modules.items()}
    state = replace(start, personal={ann: {f"{name}.b": f.b for name, f in loud.items()} | dict(start.adapter.dense)})
    of_ann = score(federation, Download(Adapter(loud, start.adapter.dense)), federation.test)
    of_bob = score(federation, Download(start.adapter), federation.test)
    assert of_ann["loss"] != of_bob["loss"]
    assert score_global(federation, state, (ann, bob))["loss"] == pytest.approx((of_ann["loss"] + of_bob["loss"]) / 2)
    assert rank_groups(federation, state, (ann, bob)) == {4: of_ann, 2: of_bob}
    assert list(rank_groups(federation, state, (bob,))) == [2]
