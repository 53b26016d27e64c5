"""The wrapper around the methods: which it refuses, trees, runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank import aggregation
from polyrank.aggregation import METHODS, Partial, build
from polyrank.aggregation.as_sent import AsSent
from polyrank.aggregation.kernels.rows import RowMethod
from polyrank.aggregation.robust.registry import RULES
from polyrank.config import AggregationConfig, override
from polyrank.core import codec
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.federation.planning.outlook import outlook
from polyrank.federation.tree import Node
from polyrank.federation.tree import aggregate as play
from polyrank.runs.runner import run
from tests.aggregation.robust.cohorts import affected, cohort, names
from tests.conformance.fixtures import Round, aggregate, as_trained, levels_of
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, interrupt, metrics

WRAPPED = [
    name
    for name, cls in METHODS.items()
    if issubclass(cls, RowMethod) and cls.info.first_indices and not (cls.info.own_weights or cls.info.judges)
]


def configured(**values: Any) -> aggregation.Method:
    return aggregation.configured(AggregationConfig(**values))


def of(rule: str, method: str = "replication", **options: Any) -> aggregation.Method:
    return build(method, options, RULES.build(rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_rows_is_wrapped_and_the_others_are_refused(method: str, rule: str):
    if method in WRAPPED and not (method == "fedsa" and rule == "krum"):
        made = configured(method=method, robust=rule)
        assert made.info.name == method
        assert not made.info.fixed_sums
        assert made.parts(1) == METHODS[method]().parts(1)
        return
    with pytest.raises(ConfigError, match=method) as found:
        configured(method=method, robust=rule)
    assert "\n" not in str(found.value)


def test_what_is_refused():
    cases: dict[str, dict[str, Any]] = {
        "there is no robust rule 'medan': did you mean 'median'": {"robust": "medan"},
        "robust rule median has no option 'share'": {"robust": "median", "robust_options": {"share": 0.2}},
        "krum: hostile is 0.5; expected a share above 0 and below 0.5": {
            "robust": "krum",
            "robust_options": {"hostile": 0.5},
        },
        "bound is -1.0; expected a number above 0": {"robust": "norm", "robust_options": {"bound": -1.0}},
        "steps is 0; expected 1 or more": {"robust": "geometric_median", "robust_options": {"steps": 0}},
        "robust is none; expected a rule": {"robust_options": {"hostile": 0.2}},
    }
    for message, values in cases.items():
        with pytest.raises(ConfigError) as found:
            configured(**values)
        assert message in str(found.value)


def test_without_a_rule_a_method_is_itself():
    assert configured() == build("replication")


def test_a_run_whose_rounds_are_too_small_for_the_rule_is_refused(configure: Configure, tmp_path: Path):
    config = configure("aggregation.robust=krum", "federation.participation=0.6")
    with pytest.raises(ConfigError, match=r"aggregation.robust krum needs 5 clients in a round, and 4 take part"):
        run(config, tmp_path / "run")


@pytest.mark.parametrize("method", WRAPPED)
@pytest.mark.parametrize("rule", RULES)
def test_a_tree_is_flat(method: str, rule: str):
    """Edges send every client's factors on; the root judges all of them together, and gets the very same result."""
    if (method, rule) == ("fedsa", "krum"):
        pytest.skip("refused")
    made = of(rule, method)
    owners = {6: 11} if made.info.equal_ranks else {1: 4, 3: 2, 6: 5}
    it = cohort(owners, dtype=torch.float32)
    if made.info.equal_ranks:
        it = replace(it, server=replace(it.server, adapter=it.server.adapter.prefix(6)))
    it = as_trained(made, replace(it, server=replace(it.server, seed=1)))
    flat = aggregate(made, it.server, it.updates)
    root = made.start(it.server, levels_of(it.server, it.updates))
    sums = root.empty()
    for part in (it.updates[3:4], it.updates[4:], it.updates[:3], ()):
        edge = made.start(it.server, levels_of(it.server, it.updates))
        below = edge.empty()
        for update in part:
            below = below + edge.contribution(update)
        sums += root.received(codec.loads(Partial, codec.dumps(below.partial())))
    assert root.conclude(sums).adapter.identical(flat)


def test_edges_and_a_root_play_a_round_like_one_server():
    it = cohort({3: 4, 6: 7}, dtype=torch.float32)
    made, asked = of("median"), [u.client for u in it.updates]
    sent = it.with_updates(lambda u: replace(u, adapter=_as_asked(it, u.client, u)))
    flat = play(it.server, sent.updates, made)
    root = Node(it.server, made, asked)
    for half in (sent.updates[:5], sent.updates[5:]):
        edge = Node(it.server, made, asked)
        for update in half:
            assert edge.add(update)
        root.fold(edge.pack())
    found = root.finish()
    assert found.used == flat.used
    assert found.metrics == flat.metrics
    assert found.state.adapter.identical(flat.state.adapter)
    with pytest.raises(AdapterError, match="an edge sent sums of"):
        Node(it.server, build("replication"), asked).fold(edge.pack())


def _as_asked(it: Round, client: str, update: Any) -> Any:
    """The update under the scales of its read-out."""
    modules = {name: replace(f, scale=it.server.scales[client]) for name, f in update.adapter.modules.items()}
    return replace(update.adapter, modules=modules)


def test_sums_that_are_no_updates_are_refused():
    it = cohort({3: 4, 6: 7})
    kernel = of("median").start(it.server, levels_of(it.server, it.updates))
    good = kernel.contribution(it.updates[0]).partial()
    ((client, scales, dense),) = good.about["clients"]
    first = next(iter(good.tensors))
    shaped = {**good.tensors, "clients/0/head.bias": torch.zeros(4)}
    bad = {
        "do not say whose updates": Partial(good.tensors),
        "expected a client, its scales": Partial(good.tensors, {"clients": [[client, dense]]}),
        "expected a client, its": Partial(good.tensors, {"clients": [[client, {"layer.0.q": "1"}, dense]]}),
        "the sums lack layer.9.a": Partial(good.tensors, {"clients": [[client, {**scales, "layer.9": 1.0}, dense]]}),
        "have tensors that the global adapter lacks": Partial(good.tensors, {"clients": [[client, scales, []]]}),
        "NaN or infinite": Partial({**good.tensors, first: good.tensors[first] * float("nan")}, good.about),
        "factors do not fit": Partial({**good.tensors, first: torch.zeros(2, 2)[:, 0]}, good.about),
        "sent head.bias as (4,)": Partial(shaped, good.about),
    }
    for message, partial in bad.items():
        with pytest.raises(AdapterError) as found:
            kernel.received(partial)
        assert message in str(found.value)


def test_the_memory_of_an_update_may_be_used_again():
    it = cohort({6: 5})
    made = of("median")
    expected = aggregate(made, it.server, it.updates)
    kernel = made.start(it.server, levels_of(it.server, it.updates))
    sums = kernel.empty()
    for update in it.copy().updates:
        sums = kernel.fold(sums, update)
        for _, tensor in update.adapter.tensors():
            tensor.fill_(9.0)
    assert kernel.conclude(sums).adapter.identical(expected)


@pytest.mark.parametrize("how", ["rotation", "rectangular"])
def test_clients_are_aligned_before_they_are_judged(how: str):
    """By hand: each update aligned, then the same rule; under ``"rectangular"`` all clients own all rows."""
    from polyrank.aggregation.align import aligned

    it = cohort({3: 4, 6: 7})
    turned = it.with_updates(lambda update: aligned(update, it.server.adapter, how))  # type: ignore[arg-type]
    found = aggregate(of("median", align=how), it.server, it.updates)
    assert found.identical(aggregate(of("median"), turned.server, turned.updates))


def test_over_16_bits_it_is_the_same_method():
    """What is frozen is rounded as it was sent; ranks and rules are the inner method's."""
    made = of("median", "ffa")
    sent = AsSent(made, torch.bfloat16)
    assert (sent.info, sent.parts(1), sent.needs(20)) == (made.info, made.parts(1), (13, 13))


def test_a_huge_value_of_one_client_costs_the_others_nothing():
    """3e38 in float32 would overflow the plain sum, and the round with it."""
    it = cohort({6: 11}, dtype=torch.float32)
    loud = affected(it, names(it)[:3], lambda t: torch.full_like(t, 3e38))
    for rule in RULES:
        found = aggregate(of(rule), loud.server, loud.updates)
        assert found.first_not_finite() is None
    assert aggregate(build("replication"), loud.server, loud.updates).first_not_finite()


def test_a_run_warns_of_ranks_that_too_few_clients_have(configure: Configure, caplog: pytest.LogCaptureFixture):
    """Two of six clients have rank 4; one may be hostile, so rank indices 2 and 3 need three owners."""
    config = configure("aggregation.robust=trimmed", "federation.participation=1.0")
    outlook(config)
    (said,) = caplog.messages
    assert "trimmed: about 2 clients of a round own rank indices from 2 on, and it needs 3 of 6" in said
    caplog.clear()
    for fine in ("ranks.counts=[3, 3]", "aggregation.robust=krum", "aggregation.robust=none"):
        outlook(override(config, [fine]))
    assert not caplog.messages


ROBUST = ("aggregation.robust=median", "aggregation.robust_options={hostile=0.2}", "federation.participation=0.6")


def test_a_run_says_what_its_rule_held_and_goes_on_where_it_was_stopped(configure: Configure, tmp_path: Path):
    config = configure(*ROBUST, "federation.rounds=3")
    run(config, tmp_path / "whole")
    interrupt(config, tmp_path / "stopped", after_round=2)
    run(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    for line in metrics(tmp_path / "whole"):
        assert 0 < line["aggregation/rows_held"] < 1
        assert line["aggregation/error"] > 0
    with pytest.raises(Exception, match=r"aggregation.robust is 'median' there and 'norm' here"):
        run(configure("aggregation.robust=norm", *ROBUST[2:], "federation.rounds=3"), tmp_path / "whole", resume=True)
