"""What the server measures of each client's model, and what the method `validated` makes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyrank.aggregation import Aggregate, build
from polyrank.aggregation.methods.validated import GAMMAS
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.state import ClientUpdate
from polyrank.federation.judging import best_of, judged, with_excess
from polyrank.federation.round import read_outs
from polyrank.federation.server import build as build_server
from polyrank.federation.tree import aggregate
from polyrank.runs.runner import run
from tests.conformance.fixtures import SHAPES, Adding, three_levels
from tests.conformance.oracle import plain, validated
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, interrupt, metrics

VALIDATED = ("aggregation.method=validated", "ranks.policy=fixed")


def _updates(*losses: float) -> list[ClientUpdate]:
    return [ClientUpdate(f"client-{i}", Adapter({}), 1.0) for i in range(len(losses))]


def test_a_head_that_nobody_shares_is_not_measured(configure: Configure):
    with pytest.raises(ConfigError, match="the server has no head that was trained"):
        build_server(configure(*VALIDATED, "federation.head=local"))


def test_the_best_of_a_round_has_no_excess_and_what_is_not_finite_has_no_end_of_it():
    losses = (2.0, math.nan, 0.5, math.inf)
    found = [update.excess for update in with_excess(_updates(*losses), losses)]
    assert found == [1.5, math.inf, 0.0, math.inf]
    assert [update.excess for update in with_excess(_updates(math.nan), [math.nan])] == [math.inf]
    assert with_excess([], []) == []


def test_the_loss_is_that_of_the_clients_own_model_on_the_held_out_set(configure: Configure):
    """Also where no rank policy asks for a validation set; none of its texts is a client's."""
    server = build_server(configure(*VALIDATED))
    assert server.site.validation is not None
    state = server.initial_state()
    sent = read_outs(state, server.cohort(1), server.method)
    works = {client: server.work(state, client, 1, own) for client, own in sent.items()}
    updates = [outcome.update(works[outcome.client]) for outcome in server.engine.run(list(works.values()))]
    good = [update for update in updates if update is not None]
    bad = replace(good[0], adapter=good[0].adapter.map(lambda tensor: tensor * math.nan))
    found, told = judged(server.site, [*good[1:], bad])
    losses = [server.site.measured(one.adapter, None, server.site.validation)["loss"] for one in good[1:]]
    expected = [loss - min(losses) for loss in losses]
    assert [one.excess for one in found] == pytest.approx([*expected, math.inf], abs=1e-6)
    assert told == pytest.approx({"loss_best": min(losses), "loss_mean": sum(losses) / len(losses)})
    server.close()


def test_a_poor_owner_hardly_moves_its_rows():
    """Ranks 1, 3 and 6: of the rows from 3 on there are two owners, whose loss alone changes."""
    it = three_levels()
    method = build("validated", {"sharpness": 1.0, "choose": False})

    def moved(excess: float) -> float:
        poor = {"cem": excess, "fay": excess}
        adding = Adding(method, it.server, it.updates)
        for update in it.updates:
            adding.add(replace(update, excess=poor.get(update.client, 0.0)))
        module = adding.finish().adapter.modules["layer.0.q"]
        return float((module.a[3:] - it.server.adapter.modules["layer.0.q"].a[3:]).norm())

    far = [moved(excess) for excess in (0.0, 2.0, 8.0, math.inf)]
    assert far[0] > far[1] > far[2] > 0
    assert far[3] == 0


def test_without_sharpness_it_is_tempered():
    it = three_levels()
    found, expected = (Adding(build(name, values), it.server, it.updates) for name, values in _TEMPERED)
    for update in it.updates:
        found.add(update)
        expected.add(update)
    for (name, mine), (_, theirs) in zip(
        found.finish().adapter.tensors(), expected.finish().adapter.tensors(), strict=True
    ):
        assert torch.equal(mine, theirs), name


_TEMPERED = (("validated", {"sharpness": 0.0, "choose": False}), ("tempered", {}))


def test_the_candidates_are_the_oracles_results_for_each_gamma():
    it = three_levels()
    adding = Adding(build("validated"), it.server, it.updates)
    for update in it.updates:
        adding.add(update)
    found = adding.finish()
    assert [one.metrics["gamma"] for one in found.candidates] == [0.0, 0.5, 1.0]
    for one in found.candidates:
        expected = validated(it.server, it.updates, gamma=one.metrics["gamma"])
        mine = plain(one.adapter)
        for name in SHAPES:
            np.testing.assert_allclose(mine.a[name], expected.a[name], rtol=1e-12)
            np.testing.assert_allclose(mine.b[name], expected.b[name], rtol=1e-12)
    assert found.adapter.identical(found.candidates[1].adapter)


def test_the_candidate_of_the_lowest_loss_is_taken_and_none_that_is_not_finite():
    server = three_levels().server
    others = [server.adapter.map(lambda tensor, k=k: tensor + k) for k in range(3)]
    result = Aggregate(
        others[0], candidates=[Aggregate(own, metrics={"gamma": float(i)}) for i, own in enumerate(others)]
    )

    def taken(*losses: float) -> Aggregate:
        asked = iter(losses)
        return best_of(lambda *_: next(asked), server, result)

    assert taken(2.0, 1.0, 3.0).adapter is others[1]
    assert taken(math.nan, 2.0, math.inf).metrics == {"gamma": 1.0, "loss": 2.0}
    assert taken(1.0, 1.0, 1.0).adapter is others[0]
    stays = taken(math.nan, math.inf, math.nan)
    assert stays.adapter is server.adapter
    assert best_of(lambda *_: 0.0, server, Aggregate(others[2])).adapter is others[2]


def test_a_server_that_cannot_choose_says_so():
    it = three_levels()
    with pytest.raises(AdapterError, match="leaves it to a server with a validation set which of a round's results"):
        aggregate(it.server, it.updates, build("validated"))


@pytest.mark.parametrize("excess", [None, -0.1, math.nan])
def test_a_server_that_measured_nothing_is_refused_by_the_clients_name(excess: float | None):
    it = three_levels()
    with pytest.raises(AdapterError, match=r"client dee has the excess loss .*validation set"):
        Adding(build("validated"), it.server, it.updates).add(replace(it.updates[0], excess=excess))


def test_an_option_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"validated: sharpness is -1.0"):
        build("validated", {"sharpness": -1.0})


def test_a_run_judges_every_round_and_goes_on_to_the_bit(configure: Configure, tmp_path: Path):
    config = configure(*VALIDATED)
    run(config, tmp_path / "whole")
    for line in metrics(tmp_path / "whole"):
        assert 0 < line["aggregation/loss_best"] <= line["aggregation/loss_mean"]
        assert line["aggregation/gamma"] in GAMMAS
        assert line["aggregation/loss"] > 0
    interrupt(config, tmp_path / "parts", after_round=1)
    run(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["secure.enabled=true"], "has the server measure each client's model"),
        (["aggregation.robust=median"], "under aggregation.robust all of them count alike"),
        (["privacy.model=central", "privacy.clip=1", "privacy.noise=1"], "weighs clients by what they learned"),
    ],
)
def test_what_hides_clients_from_the_server_is_refused(configure: Configure, overrides: list[str], reason: str):
    extra = (
        *overrides,
        "aggregation.weights=uniform",
        "evaluation.diagnostics=false",
    )
    with pytest.raises(ConfigError, match=reason):
        build_server(configure(*VALIDATED, *extra))
