from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polyrank import config as configuration
from polyrank.aggregation import METHODS, Download
from polyrank.core.errors import ConfigError, DataError, ModelError, PolyRankError
from polyrank.core.seeds import derive
from polyrank.federation.population import DEFAULT_CLIENTS, global_rank
from polyrank.federation.server import Server, build
from polyrank.training.work import Proximal
from tests import models
from tests.conftest import Configure


def test_the_global_rank_is_that_of_the_configuration():
    """Levels 5 and 20 give 20; a client that is named with rank 32 makes it 32."""
    assert global_rank(configuration.load()) == 20
    named = configuration.load(overrides=["ranks.policy=fixed", "ranks.by_name={a = 32}"])
    assert global_rank(named) == 32


def test_the_global_rank_does_not_depend_on_who_there_is(configure: Configure):
    """All six clients have rank 2, nobody rank 4: the global adapter has rank 4 all the same."""
    state = build(configure("ranks.counts=[6, 0]")).initial_state()
    assert set(state.ranks.values()) == {2}
    assert {factors.rank for factors in state.adapter.modules.values()} == {4}
    assert state.round == 0


def test_clients_are_named_and_share_all_training_texts(configure: Configure):
    """240 rows less a fifth for the test are 192; six clients get 32 each."""
    server = build(configure())
    assert server.clients == tuple(f"client-0{i}" for i in range(6))
    assert [len(server.site.examples[client]) for client in server.clients] == [32] * 6
    assert len(server.site.test) == 48
    assert server.site.validation is None
    assert server.site.labels == ("fruit", "pets")


def test_nothing_is_left_to_be_resolved(configure: Configure):
    """The resolved configuration built again resolves to itself."""
    overrides = ("training.precision=auto", "training.attention=auto", "training.engine=auto", "model.head=auto")
    resolved = build(configure(*overrides)).config
    assert "auto" not in (
        resolved.training.precision,
        resolved.training.attention,
        resolved.training.engine,
        resolved.model.head,
    )
    assert build(resolved).config == resolved


def test_measuring_leaves_the_initial_adapter_in_place(configure: Configure):
    """What was trained for the sake of time is gone, and so is its gradient."""
    auto = ("training.engine=auto", "training.clients_per_pass=auto", "training.workers=auto")
    threads = torch.get_num_threads()
    server = build(configure(*auto))
    assert server.site.plan.engine == server.config.training.engine == "batched"
    assert server.site.plan.clients_per_pass == server.config.training.clients_per_pass
    assert server.site.resident.extract().identical(server.initial_state().adapter)
    assert all(parameter.grad is None for parameter in server.site.resident.trainable())
    assert not server.site.resident.model.training
    assert torch.get_num_threads() == threads


def test_the_number_of_clients_comes_from_the_column(configure: Configure):
    """The csv names three owners; the number of clients is written down as three."""
    column = ("data.partition=by-column", "data.column=owner", "federation.clients=3", "ranks.counts=[2, 1]")
    server = build(configure(*column))
    assert server.clients == ("ann", "bob", "eve")
    without = configure().model_dump() | {"federation": {"participation": 0.5}}
    without["data"] |= {"partition": "by-column", "column": "owner"}
    without["ranks"] |= {"counts": [2, 1]}
    assert build(configuration.parse(without, "tests")).config.federation.clients == 3


def test_a_hundred_clients_are_the_default(configure: Configure):
    values = configure("ranks.counts=[99, 1]").model_dump()
    del values["federation"]["clients"]
    assert len(build(configuration.parse(values, "tests")).clients) == DEFAULT_CLIENTS == 100


def _same_data(one: Server, other: Server) -> bool:
    return all(
        len(one.site.examples[client]) == len(other.site.examples[client])
        and all(map(np.array_equal, one.site.examples[client].tokens, other.site.examples[client].tokens))
        for client in one.clients
    )


def test_what_a_method_holds_out_any_other_can_hold_out_too(configure: Configure):
    """Else they would be compared on other data."""
    judging = build(configure("aggregation.method=validated"))
    without, beside = (build(configure(f"data.hold_out={value}")) for value in ("false", "true"))
    assert without.site.validation is None
    assert beside.site.validation is not None
    assert not _same_data(judging, without)
    assert _same_data(judging, beside)
    assert all(map(np.array_equal, judging.site.validation.tokens, beside.site.validation.tokens))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"replication", "fedavg", "validated"}))
def test_the_method_changes_nothing_of_where_a_run_starts(configure: Configure, name: str):
    one, other = (build(configure(f"aggregation.method={method}")) for method in ("replication", name))
    assert one.initial_state().adapter.identical(other.initial_state().adapter)
    assert one.initial_state().ranks == other.initial_state().ranks
    for client in one.clients:
        assert all(map(np.array_equal, one.site.examples[client].tokens, other.site.examples[client].tokens))


def test_another_seed_starts_elsewhere(configure: Configure):
    one, other = (build(configure(f"federation.seed={seed}")) for seed in (0, 1))
    ours, theirs = (dict(server.initial_state().adapter.tensors()) for server in (one, other))
    assert ours.keys() == theirs.keys()
    same = {name for name in ours if ours[name].equal(theirs[name])}
    assert same == {name for name in ours if name.endswith((".b", "classifier.bias"))} & same
    assert all(name in same for name in ours if name.endswith(".b"))  # B is zero


def test_scales_go_with_the_ranks(configure: Configure):
    """alpha 2 under rslora: 2 / sqrt(4) = 1 for rank 4, which is the server's too, and sqrt(2) for rank 2."""
    state = build(configure("ranks.scaling=rslora")).initial_state()
    assert state.scales["client-00"] == 1.0
    assert state.scales["client-05"] == pytest.approx(2**0.5)
    assert {factors.scale for factors in state.adapter.modules.values()} == {1.0}


def test_fedavg_with_unequal_ranks_is_refused_before_the_model_is_loaded(configure: Configure):
    """Ranks 4, 4, 2, ...: a client of each is named; the model folder does not even exist."""
    config = configure("aggregation.method=fedavg", "model.name=/no/such/model")
    with pytest.raises(ConfigError, match="but client-02 has rank 2, client-00 has rank 4"):
        build(config)


def test_fedavg_is_refused_where_scoring_would_make_ranks_unequal(configure: Configure):
    config = configure("aggregation.method=fedavg", "ranks.policy=validation", "ranks.validation_per_label=5")
    with pytest.raises(ConfigError, match="fedavg needs clients of equal ranks"):
        build(config)


def test_fedavg_with_one_rank_is_built(configure: Configure):
    server = build(configure("aggregation.method=fedavg", "ranks.levels=[4]", "ranks.counts=[6]"))
    assert set(server.initial_state().ranks.values()) == {4}


def test_a_trained_head_keeps_its_own_order_of_classes(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The checkpoint counts pets before fruit, the alphabet the other way round."""
    names = {"id2label": {0: "pets", 1: "fruit"}, "label2id": {"pets": 0, "fruit": 1}}
    folder = models.save(tmp_path / "own", "bert", classifier=2, **names)
    saved = load_file(folder / "model.safetensors")["classifier.weight"]
    for labels, order in (([], [0, 1]), (["data.labels=['fruit', 'pets']"], [1, 0])):
        server = build(configure(f"model.name='{folder}'", "model.head='model'", *labels))
        assert server.site.labels == tuple(("pets", "fruit")[i] for i in order)
        assert torch.equal(server.initial_state().adapter.dense["classifier.weight"], saved[order])
    assert not caplog.text


def test_a_head_of_other_classes_is_said_once(configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = models.save(tmp_path / "own", "bert", classifier=2)
    build(configure(f"model.name='{folder}'", "training.precision='auto'"))
    assert caplog.text.count("trained for LABEL_0, LABEL_1, and the data have fruit, pets: the head starts anew") == 1


def test_the_validation_set_is_balanced_and_no_client_holds_it(configure: Configure):
    """Ten texts of each of two labels leave 172 of 192 to the clients."""
    server = build(configure("ranks.policy=validation", "ranks.validation_per_label=10"))
    assert server.site.validation is not None
    assert np.bincount(server.site.validation.targets).tolist() == [10, 10]
    assert sum(len(examples) for examples in server.site.examples.values()) == 172
    assert set(server.initial_state().ranks.values()) == {2}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("ranks.levels=[2, 17]", ModelError, "rank 17 is above the size of the layer .* at most 16"),
        ("ranks.counts=[4, 4]", ConfigError, r"ranks\.counts: found 4 at rank 2, 4 at rank 4, 8 in all; expected 6 cl"),
        ("aggregation.method=replicaton", ConfigError, "did you mean 'replication'"),
        ("aggregation.options={donors = 1}", ConfigError, "replication has no option 'donors': did you mean 'donor'"),
        ("data.partition=idd", ConfigError, "there is no partition 'idd': did you mean 'iid'"),
        ("data.train=/no/such.csv", DataError, "no such file"),
        ("federation.clients=500", DataError, "500 clients, but only 192 training examples"),
        ("model.name=/no/such/model", ModelError, "there is no such folder"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    configure: Configure, override: str, error: type[PolyRankError], message: str
):
    with pytest.raises(error, match=message) as found:
        build(configure(override))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("method", "policy", "message"),
    [
        ("fslora", "self_pruning", "self_pruning prunes a client's last rank indices, and .* fslora it has others"),
        ("lora_a2", "self_pruning", "self_pruning prunes a client's last rank indices, and .* lora_a2 it has others"),
        ("lora_a2", "validation", "validation scores what a client trained at its rank, and .* lora_a2 it is sent all"),
    ],
)
def test_policies_by_first_rank_indices_are_refused_where_clients_have_others(
    configure: Configure, method: str, policy: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        build(configure(f"aggregation.method={method}", f"ranks.policy={policy}", "ranks.validation_per_label=5"))


def test_clients_that_may_shrink_are_refused_where_ranks_must_stay_equal(configure: Configure):
    """All have rank 4, but may shrink to 3; with one level nobody can, and nothing is wrong."""
    pruning = ("aggregation.method=fedavg", "ranks.policy=self_pruning")
    with pytest.raises(ConfigError, match=r"fedavg needs clients of equal ranks, but with ranks\.policy self_pruning"):
        build(configure(*pruning, "ranks.counts=[0, 6]"))
    build(configure(*pruning, "ranks.levels=[4]", "ranks.counts=[6]"))


def test_what_is_trained_follows_the_round_and_the_scoring_round_is_like_the_first(configure: Configure):
    """RoLoRA trains B in odd rounds and A in even ones; the seed is of the run, the round and the client."""
    server = build(configure("aggregation.method=rolora", "federation.seed=5"))
    state = server.initial_state()
    ann, bob = server.clients[:2]
    asked = {(who, n): server.work(state, who, n, Download(state.adapter)) for who in (ann, bob) for n in (0, 1, 2)}
    trains = [asked[ann, number].trains for number in (0, 1, 2)]
    assert trains == [frozenset({"b", "head"}), frozenset({"b", "head"}), frozenset({"a", "head"})]
    assert {key: work.seed for key, work in asked.items()} == {
        (who, number): derive(5, "training", number, who) for who, number in asked
    }


@pytest.mark.parametrize(
    ("method", "head", "expected"),
    [
        ("replication", "mean", ({"a", "b", "head"}, {"a", "b", "head"})),
        ("replication", "local", ({"a", "b"}, {"a", "b"})),
        ("ffa", "mean", ({"b", "head"}, {"b", "head"})),
        ("rolora", "mean", ({"b", "head"}, {"a", "head"})),
        ("fedsa", "mean", ({"a"}, {"a"})),
    ],
)
def test_the_proximal_term_is_of_what_is_trained_and_sent(
    configure: Configure, method: str, head: str, expected: tuple[set[str], set[str]]
):
    """A head or a B that stays with the client is free, and so is what the round freezes; without a weight all is."""
    options = (f"aggregation.method={method}", f"federation.head={head}")
    server = build(configure("training.proximal=0.5", *options))
    state = server.initial_state()
    start, client = Download(state.adapter), server.clients[0]
    for number, parts in zip((1, 2), expected, strict=True):
        assert server.work(state, client, number, start).proximal == Proximal(0.5, frozenset(parts))
    assert server.work(state, client, 0, start).proximal == Proximal(0.5, frozenset(expected[0]))
    assert build(configure(*options)).work(state, client, 1, start).proximal is None


def test_the_learning_rate_falls_over_the_rounds_of_the_run(configure: Configure):
    """Four rounds: 4/4, 3/4, 2/4, 1/4; the scoring round has all of it."""
    server = build(configure("training.rounds_decay=linear", "federation.rounds=4"))
    state = server.initial_state()
    works = [server.work(state, server.clients[0], number, Download(state.adapter)) for number in range(5)]
    assert [work.lr_share for work in works] == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_of_a_run_that_its_budget_ends_the_schedule_ends_with_it(configure: Configure):
    """The rounds that the budget allows are the run: the last of them has the last share of the schedule."""
    pytest.importorskip("dp_accounting", reason="needs the extra privacy")
    private = ("privacy.model=central", "privacy.noise=9.0", "privacy.budget=4", "privacy.sampling=fixed")
    weights = ("aggregation.weights=uniform", "privacy.delta=1e-3")
    server = build(configure(*private, *weights, "federation.rounds=300", "training.rounds_decay=linear"))
    rounds, state = server.config.federation.rounds, server.initial_state()
    assert 1 < rounds < 300
    last = server.work(state, server.clients[0], rounds, Download(state.adapter))
    assert last.lr_share == pytest.approx(1 / rounds)


def test_the_initial_state_is_the_same_after_training(configure: Configure):
    """The head is the one that was loaded, not what was installed last."""
    server = build(configure("federation.seed=3"))
    first = server.initial_state()
    server.site.resident.install(first.adapter.map(lambda tensor: tensor + 1))
    assert server.initial_state().adapter.identical(first.adapter)
    assert (first.seed, first.base_change) == (3, None)
