"""Server optimisers around methods: against the oracle over several rounds, in trees, under privacy; refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyrank import aggregation
from polyrank.aggregation import METHODS, Method
from polyrank.aggregation.as_sent import AsSent
from polyrank.aggregation.optimised.optimisers import OPTIMISERS
from polyrank.aggregation.optimised.wrapper import Optimised
from polyrank.config import AggregationConfig
from polyrank.core import codec
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ConfigError, RunFolderError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import read_out
from polyrank.federation.server import build as build_federation
from polyrank.federation.tree import Hooks, Node, RoundResult, aggregate
from polyrank.merging.merge import merge
from polyrank.privacy import Central
from polyrank.runs.runner import run
from tests.aggregation.optimised import oracle
from tests.conformance.fixtures import ALONE, chosen_indices
from tests.conformance.oracle import ORACLES
from tests.conformance.test_rounds import ALL, CLIENTS, LOW, Draw, begin
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, final, interrupt

STEPPED = [name for name, cls in METHODS.items() if not (cls.info.refactors or cls.info.changes_base)]
COHORTS = (ALL, LOW, ("ann", "dee"), LOW, ALL, ("bob",))
"""Rank indices 3 to 5 have an owner in every second round only; all of them have moments by then."""
CASES: dict[str, tuple[str, dict[str, float], float]] = {
    "momentum": ("momentum", {}, 0.7),
    "momentum, other": ("momentum", {"beta1": 0.3}, 1.3),
    "adagrad": ("adagrad", {}, 0.1),
    "adagrad with a mean": ("adagrad", {"beta1": 0.5, "tau": 0.1}, 0.1),
    "adam": ("adam", {}, 0.05),
    "adam, other": ("adam", {"beta1": 0.0, "beta2": 0.5, "tau": 0.01}, 0.05),
    "yogi": ("yogi", {}, 0.05),
    "yogi, other": ("yogi", {"beta1": 0.2, "beta2": 0.3, "tau": 1.0}, 0.05),
}


def configured(method: str, server: str, lr: float | None = None, **options: Any) -> Method:
    return aggregation.configured(
        AggregationConfig(
            method=method,
            options=dict(ALONE.get(method, {})),
            server=server,  # type: ignore[arg-type]
            server_lr=lr,
            server_options=options,
        )
    )


def start(method: str) -> ServerState:
    """LoRA's start; all clients of the global rank for a method that needs equal ones."""
    state = begin(Draw(3))
    return replace(state, ranks=dict.fromkeys(CLIENTS, 6)) if METHODS[method].info.equal_ranks else state


def trained(method: Method, state: ServerState, names: Sequence[str], draw: Draw) -> list[ClientUpdate]:
    """Every client moves what the method trains, by a little."""
    trains, updates = method.parts(state.round + 1).trains, []
    for name in names:
        own = read_out(state, name, method).adapter
        chosen = None
        if method.info.chooses_indices:
            ranks = own.ranks
            chosen = {m: chosen_indices(name, m, min(CLIENTS[name][0], rank), rank) for m, rank in ranks.items()}
            own = own.picked(chosen)
        moved = {key: tensor + 0.3 * draw(*tensor.shape) for key, tensor in own.parts(trains).items()}
        weight, excess = CLIENTS[name][1], 0.1 * len(updates)
        updates.append(ClientUpdate(name, own.replaced(moved), weight, excess=excess, indices=chosen))
    return updates


def numbers(adapter: Adapter) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy().copy() for name, tensor in adapter.tensors()}


def tensors(adapter: Any) -> dict[str, np.ndarray]:
    """Of the oracle's own form."""
    factors = {f"{module}.{x}": value for x in "ab" for module, value in getattr(adapter, x).items()}
    return factors | adapter.dense


def close(found: Mapping[str, torch.Tensor], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", STEPPED)
def test_six_rounds_are_those_of_the_dense_oracle(name: str, case: str):
    """Different ranks, weights and scales; rows without an owner; the state goes through the codec between rounds."""
    server, options, lr = CASES[case]
    method, draw, memory = configured(name, server, lr, **options), Draw(5), oracle.Memory()
    state = start(name)
    for cohort in COHORTS:
        sends = method.parts(state.round + 1).sends
        result = aggregate(state, trained(method, state, cohort, draw), method)
        before = numbers(state.adapter)
        after = before | tensors(ORACLES[name](state, result.received, {}).adapter)
        averaged = {key: before[key] for key in state.adapter.parts(sends)}
        expected = oracle.step(server, options, lr, before=averaged, after=after, kept=memory)
        close(dict(result.state.adapter.tensors()), before | expected)
        close({key.removeprefix("server/"): t for key, t in result.state.memory.items()}, memory)
        state = codec.loads(ServerState, codec.dumps(result.state))
    assert {key.partition("/")[0] for key in memory} == ({"m"} if server == "momentum" else {"m", "v"})


@pytest.mark.parametrize("name", STEPPED)
def test_a_rate_of_one_without_momentum_is_the_method(name: str):
    plain, stepped = aggregation.build(name, ALONE.get(name)), configured(name, "momentum", beta1=0.0)
    one = other = start(name)
    for cohort in COHORTS:
        updates = trained(plain, one, cohort, Draw(len(cohort)))
        one, other = aggregate(one, updates, plain).state, aggregate(other, updates, stepped).state
        for (key, tensor), (_, found) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
            torch.testing.assert_close(found, tensor, rtol=1e-12, atol=1e-12, msg=key)


def test_a_row_that_nobody_changed_keeps_its_value_and_its_moments():
    """Rank indices 3 to 5 are dee's, which does not come in round 2: all else goes on by its momentum."""
    method, draw = configured("owner_mean", "adam", 0.05), Draw(1)
    one = aggregate(start("owner_mean"), trained(method, start("owner_mean"), ALL, draw), method).state
    two = aggregate(one, trained(method, one, LOW, draw), method).state
    for module, factors in two.adapter.modules.items():
        was = one.adapter.modules[module]
        assert factors.a[3:].equal(was.a[3:])
        assert factors.b[:, 3:].equal(was.b[:, 3:])
        assert not (factors.a[:3] == was.a[:3]).any()
        for key in ("m", "v"):
            now, then = two.memory[f"server/{key}/{module}.a"], one.memory[f"server/{key}/{module}.a"]
            assert now[3:].equal(then[3:])
            assert not (now[:3] == then[:3]).any()
            assert bool(then[3:].any())


def test_half_precision_is_stepped_in_float32():
    state = start("owner_mean")
    state = replace(state, adapter=state.adapter.map(lambda t: t.to(torch.bfloat16)))
    method = configured("owner_mean", "adam", 0.05)
    after = aggregate(state, trained(method, state, ALL, _Rough(0)), method).state
    assert {t.dtype for _, t in after.adapter.tensors()} == {torch.bfloat16}
    assert {t.dtype for t in after.memory.values()} == {torch.float32}


class _Rough(Draw):
    def __call__(self, *shape: int) -> torch.Tensor:
        return super().__call__(*shape).to(torch.bfloat16)


def in_two_edges(state: ServerState, updates: Sequence[ClientUpdate], method: Method) -> RoundResult:
    asked = [update.client for update in updates]
    root = Node(state, method, asked)
    for half in (updates[:2], updates[2:]):
        edge = Node(state, method, asked)
        for update in half:
            edge.add(update)
        root.fold(edge.pack())
    return root.finish()


@pytest.mark.parametrize("case", ["momentum", "adagrad", "adam", "yogi"])
def test_a_tree_steps_as_one_server_does(case: str):
    server, options, lr = CASES[case]
    method, draw = configured("replication", server, lr, **options), Draw(2)
    flat = tree = start("replication")
    for cohort in (ALL, LOW, ALL):
        updates = trained(method, flat, cohort, draw)
        flat, tree = aggregate(flat, updates, method).state, in_two_edges(tree, updates, method).state
        close(dict(tree.adapter.tensors()), numbers(flat.adapter))
        close(tree.memory, {name: tensor.numpy() for name, tensor in flat.memory.items()})


def test_an_edge_of_another_optimiser_is_refused():
    state, method = start("replication"), configured("replication", "adam", 0.1)
    edge = Node(state, configured("replication", "yogi", 0.1), ALL).pack()
    with pytest.raises(AdapterError, match="an edge sent sums of options"):
        Node(state, method, ALL).fold(edge)


def test_a_round_of_nobody_and_one_that_overflows_leave_everything_as_it_was():
    method, state = configured("owner_mean", "momentum"), start("owner_mean")
    state = aggregate(state, trained(method, state, ALL, Draw(0)), method).state
    nobody = Node(state, method, ALL).finish().state
    assert nobody.adapter.identical(state.adapter)
    assert nobody.memory is state.memory
    adam = configured("owner_mean", "adam", 0.1)
    (loud,) = [replace(u, adapter=u.adapter.map(lambda t: t + 1e200)) for u in trained(adam, state, ["dee"], Draw(0))]
    result = aggregate(state, [loud], adam)  # finite in float64, and its square is not
    assert "overflows in server/v/" in result.dropped["dee"]
    assert result.state.adapter.identical(state.adapter)
    assert result.state.memory is state.memory


# Privacy, alignment, a narrow wire ------------------------------------------------------------------------------------


def test_under_central_privacy_the_noised_change_is_stepped_and_its_bound_is_kept():
    """One round by hand: the private method's own result, and a step of its change; the secret leaves no node."""
    private = Central(
        aggregation.build("owner_mean"), clip=0.7, noise=1.0, share=1.0, quantile=0.5, secret="of the tests"
    )
    method, state = Optimised(private, OPTIMISERS.build("adam"), 0.1), start("owner_mean")
    updates = trained(method, state, ALL, Draw(0))
    plain = aggregate(state, updates, private, uniform=True).state
    found = aggregate(state, updates, method, uniform=True).state
    before, memory = numbers(state.adapter), oracle.Memory()
    expected = oracle.step("adam", {}, 0.1, before=before, after=numbers(plain.adapter), kept=memory)
    close(dict(found.adapter.tensors()), expected)
    assert found.memory["privacy/clip"].equal(plain.memory["privacy/clip"])
    assert len(found.memory) == 1 + len(memory)
    node = Node(state, method, ALL)
    assert b"adam" in node.pack()
    assert b"of the tests" not in node.pack()


CENTRAL = ("privacy.model=central", "privacy.delta=1e-3", "privacy.noise=1.5", "aggregation.weights=uniform")
ADAM = ("aggregation.server=adam", "aggregation.server_lr=0.01")


def test_a_private_run_has_the_optimiser_outside_of_the_noise(configure: Configure):
    pytest.importorskip("dp_accounting", reason="needs the extra privacy")
    method = build_federation(configure(*CENTRAL, *ADAM, "aggregation.options={align='rotation'}")).method
    assert isinstance(method, Optimised)
    assert isinstance(method.method, Central)
    assert method.hides_who_came
    with pytest.raises(ConfigError, match="shrinkage is no sum over clients"):
        build_federation(configure(*CENTRAL, *ADAM, "aggregation.method=shrinkage"))


def test_it_is_around_alignment_and_rules():
    config = {"method": "replication", "options": {"align": "rotation"}, "robust": "median", "server": "momentum"}
    method = aggregation.configured(AggregationConfig.model_validate(config))
    inner = aggregation.configured(AggregationConfig.model_validate(config | {"server": "none"}))
    assert isinstance(method, Optimised)
    assert method.method == inner
    assert (method.needs(20), method.parts(1)) == (inner.needs(20), inner.parts(1))
    assert (method.info.exact, method.info.merges) == ("no", False)


@pytest.mark.parametrize("name", ["ffa", "rolora"])
def test_over_16_bits_what_is_frozen_is_as_it_was_sent(name: str):
    """It is the method's rounding of what the round does not train; nothing of it is stepped."""
    method, state = configured(name, "momentum"), start(name)
    for number in (1, 2):
        sent = AsSent(method, torch.bfloat16)
        after = aggregate(state, trained(sent, state, ALL, Draw(number)), sent).state
        frozen = {"a", "b"} - method.parts(number).sends
        for key, tensor in state.adapter.parts(frozen).items():
            assert dict(after.adapter.tensors())[key].equal(tensor.to(torch.bfloat16).to(tensor.dtype))
            assert f"server/m/{key}" not in after.memory.keys() - state.memory.keys()
        state = after


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if name not in STEPPED])
@pytest.mark.parametrize("server", OPTIMISERS)
def test_methods_whose_values_do_not_last_are_refused(name: str, server: str):
    with pytest.raises(ConfigError, match=rf"aggregation\.server {server}: aggregation\.method {name} ") as found:
        configured(name, server, 0.1)
    assert ("anew" in str(found.value)) == METHODS[name].info.refactors


def test_which_methods_are_stepped():
    """Factors are made anew by an SVD or a regression in seven of them; some keep a base change."""
    anew = {name for name, cls in METHODS.items() if cls.info.refactors}
    assert anew == {"flexlora", "raflora", "fedhl", "lora_fair", "fedsvd", "rb_lora", "spectral"}
    assert METHODS.keys() - set(STEPPED) == anew | {"flora", "florist", "fedex"}


@pytest.mark.parametrize("name", METHODS)
def test_where_nobody_moved_a_method_that_is_stepped_makes_no_change(name: str):
    """Clients of the global rank send back what they were sent. An SVD would give other factors of the same product, a
    step where nothing was learned: such a method has to say that it refactors.
    """
    state = replace(begin(Draw(3)), ranks=dict.fromkeys(CLIENTS, 6), scales=dict.fromkeys(CLIENTS, 2.0))
    modules = {key: replace(f, b=Draw(i)(*f.b.shape)) for i, (key, f) in enumerate(state.adapter.modules.items())}
    state, method = (
        replace(state, adapter=Adapter(modules, state.adapter.dense)),
        aggregation.build(name, ALONE.get(name)),
    )
    updates = [_still(method, state, client) for client in CLIENTS]
    found = dict(aggregate(state, updates, method).state.adapter.tensors())
    same = all(torch.allclose(found[key], tensor, atol=1e-9) for key, tensor in state.adapter.tensors())
    assert same or name not in STEPPED
    assert same == (name in (*STEPPED, "lora_fair", "fedex"))


def _still(method: Method, state: ServerState, client: str) -> ClientUpdate:
    """An update of somebody who changed nothing."""
    own = read_out(state, client, method).adapter
    chosen = {m: tuple(range(rank)) for m, rank in own.ranks.items()} if method.info.chooses_indices else None
    return ClientUpdate(client, own, 1.0, excess=0.0, indices=chosen)


def test_each_result_that_a_server_may_take_is_a_step_with_moments_of_its_own():
    """The one that is taken is what the optimiser makes of that result alone."""
    state, options = start("validated"), {"beta1": 0.5}
    several = aggregation.configured(AggregationConfig(method="validated", server="momentum", server_options=options))
    updates = trained(several, state, ALL, Draw(5))
    for number, gamma in enumerate((0.0, 0.5, 1.0)):
        hooks = Hooks(aggregate=lambda _, result, number=number: result.candidates[number])
        alone = aggregation.configured(
            AggregationConfig(
                method="validated",
                options={"choose": False, "gamma": gamma},
                server="momentum",
                server_options=options,
            )
        )
        taken, expected = aggregate(state, updates, several, hooks=hooks).state, aggregate(state, updates, alone).state
        assert taken.adapter.identical(expected.adapter)
        assert all(torch.equal(taken.memory[key], moment) for key, moment in expected.memory.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"server_lr": 0.1}, "aggregation.server is none, and server_lr or server_options is set"),
        ({"server_options": {"beta1": 0.1}}, "aggregation.server is none, and server_lr or server_options is set"),
        ({"server": "adam"}, "aggregation.server adam needs aggregation.server_lr"),
        ({"server": "adagrad"}, "aggregation.server adagrad needs aggregation.server_lr"),
        ({"server": "momentum", "server_options": {"beta": 0.1}}, "no option 'beta': did you mean 'beta1'"),
        ({"server": "momentum", "server_options": {"tau": 0.1}}, "server optimiser momentum has no option 'tau'"),
        ({"server": "momentum", "server_options": {"beta1": 1.0}}, "beta1 is 1.0; expected a number of 0 or more"),
        ({"server": "momentum", "server_options": {"beta1": -0.1}}, "beta1 is -0.1; expected a number of 0 or more"),
        ({"server": "adam", "server_lr": 1, "server_options": {"beta2": 1.5}}, "beta2 is 1.5; expected a number of 0"),
        ({"server": "yogi", "server_lr": 1, "server_options": {"tau": 0.0}}, "tau is 0.0; expected a number above 0"),
        ({"server": "yogi", "server_lr": 1, "server_options": {"tau": math.nan}}, "tau is nan; expected a number"),
        ({"server": "yogi", "server_lr": 1, "server_options": {"beta1": math.nan}}, "beta1 is nan; expected a number"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as found:
        aggregation.configured(AggregationConfig(**values))
    assert message in str(found.value)


def test_a_merge_has_no_rounds(tmp_path: Path):
    with pytest.raises(ConfigError, match="replication"):
        merge([tmp_path / "a", tmp_path / "b"], method=configured("replication", "momentum"))


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [ADAM, ("aggregation.server=momentum", "aggregation.method=rolora", "federation.head=local")]
)
def test_a_run_goes_on_where_it_was_stopped_bit_for_bit(configure: Configure, tmp_path: Path, more: tuple[str, ...]):
    config = configure(*more, "federation.rounds=4")
    run(config, tmp_path / "whole")
    interrupt(config, tmp_path / "stopped", in_round=1)
    for number in (1, 2, 3):
        interrupt(config, tmp_path / "stopped", resume=True, after_round=number)
    run(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    memory = final(tmp_path / "whole").memory
    assert memory
    assert memory.keys() == (again := final(tmp_path / "stopped").memory).keys()
    assert all(memory[name].equal(again[name]) for name in memory)
    heads = [name for name in memory if "classifier" in name or "head" in name]
    assert bool(heads) == ("federation.head=local" not in more)
    run(configure("federation.rounds=4", *[text for text in more if "server" not in text]), tmp_path / "plain")
    assert not final(tmp_path / "plain").adapter.identical(final(tmp_path / "whole").adapter)
    with pytest.raises(RunFolderError, match=r"aggregation\.server"):
        run(configure("federation.rounds=4"), tmp_path / "whole", resume=True)


def test_a_secure_run_steps_along_the_sum(secure: Configure, tmp_path: Path):
    """The masked sum differs from the plain one by rounding, and so does the step of its change."""
    momentum = ("aggregation.server=momentum", "aggregation.server_lr=0.5", "federation.rounds=2")
    run(secure(*momentum), tmp_path / "masked")
    run(secure(*momentum, "secure.enabled=false"), tmp_path / "plain")
    masked, plain = final(tmp_path / "masked"), final(tmp_path / "plain")
    assert masked.memory.keys() == plain.memory.keys()
    for name, tensor in plain.memory.items():
        torch.testing.assert_close(masked.memory[name], tensor, rtol=1e-2, atol=1e-4, msg=name)
