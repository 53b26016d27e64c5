"""Every method of the registry in a shortened quickstart: it runs, and it makes a difference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from polyrank import aggregation
from polyrank import config as configuration
from polyrank.aggregation import METHODS
from polyrank.core.adapter import Adapter
from polyrank.federation.server import Server, build
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listeners
from polyrank.runs.runner import Runner
from polyrank.training.work import Engine, Outcome, Work

SHORT = (
    *("federation.clients=20", "federation.participation=0.2", "federation.rounds=3"),
    *("data.hold_out=true", "ranks.validation_per_label=2"),  # one server for all methods
    *("data.limit_train=200", "data.limit_test=60", "ranks.policy=fixed", "training.batch_size=8"),
    *("training.precision=float32", "training.attention=eager"),
    *("training.engine=batched", "training.clients_per_pass=5", "training.workers=1"),
    *("evaluation.every=3", "evaluation.rank_groups=false"),
)
EQUAL_RANKS = sorted(name for name, cls in METHODS.items() if cls.info.equal_ranks)
ANY_RANKS = sorted(set(METHODS) - set(EQUAL_RANKS))
ALIKE = [name for name in ANY_RANKS if METHODS[name].info.first_indices]
"""Whose clients have the first rank indices; those of others send other ones from the first round on."""

SAME_BY_MATHEMATICS = {frozenset({"replication", "owner_mean"})}
"""With two rank levels the clients of the highest rank are the owners of every row that anybody lacks."""


@dataclass
class Recorder(Engine):
    """Real training; keeps what the clients made of it, by round and client."""

    engine: Engine
    rounds: list[dict[str, Adapter]]

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        self.rounds.append({})
        for work, outcome in zip(works, self.engine.run(works), strict=True):
            update = outcome.update(work)
            assert update is not None
            self.rounds[-1][work.client] = update.adapter
            yield outcome


@dataclass(frozen=True)
class Done:
    """Metrics and uploads of a run, by round."""

    metrics: list[dict[str, Any]]
    uploads: list[dict[str, Adapter]]


def three_rounds(server: Server, method: str, folder: Path) -> Done:
    section = server.config.aggregation.model_copy(update={"method": method})
    config = server.config.model_copy(update={"aggregation": section})
    recorder = Recorder(server.engine, [])
    chosen = replace(server, config=config, method=aggregation.build(method), engine=recorder)
    runner = Runner(chosen, RunFolder(folder), Listeners())
    runner.run(runner.start())
    return Done(runner.folder.read_metrics(), recorder.rounds)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Every method: ten clients of rank 20 and ten of rank 5, or rank 5 for all where ranks must be equal."""
    folder = tmp_path_factory.mktemp("methods")
    done: dict[str, Done] = {}
    for names, ranks in (
        (ANY_RANKS, ("ranks.levels=[5, 20]", "ranks.counts=[10, 10]")),
        (EQUAL_RANKS, ("ranks.levels=[5]",)),
    ):
        server = build(configuration.load(overrides=[*SHORT, *ranks]))
        done |= {name: three_rounds(server, name, folder / name) for name in names}
    return done


@pytest.mark.parametrize("name", sorted(METHODS))
def test_three_rounds_end_with_a_finite_loss(runs: dict[str, Done], name: str):
    first, _, last = runs[name].metrics
    assert math.isfinite(last["test/loss"])
    assert all(math.isfinite(line["train/loss"]) for line in runs[name].metrics)
    assert first["train/loss"] > 0
    assert all(line["dropped"] == {} for line in runs[name].metrics)


def test_clients_of_both_ranks_took_part_before_the_last_round(runs: dict[str, Done]):
    """Else methods could not differ: what they do with rows of few owners is what sets many of them apart."""
    for uploads in runs["replication"].uploads[:2]:
        assert {adapter.rank for adapter in uploads.values()} == {5, 20}
    for name in ANY_RANKS:
        assert [set(u) for u in runs[name].uploads] == [set(u) for u in runs["replication"].uploads]


@pytest.mark.parametrize("name", ALIKE)
def test_the_first_uploads_depend_only_on_what_is_trained(runs: dict[str, Done], name: str):
    """Same cohort, data and initial adapter, bit for bit: nothing was aggregated yet, nothing is left of other runs."""
    trains = METHODS[name]().parts(1).trains
    alike = next(other for other in ALIKE if METHODS[other]().parts(1).trains == trains)
    mine, theirs = runs[name].uploads[0], runs[alike].uploads[0]
    assert all(mine[client].identical(theirs[client]) for client in mine)


def difference(one: Adapter, other: Adapter) -> float:
    """``|one - other| / |one|`` over all tensors."""
    theirs = dict(other.tensors())
    gap = sum(float((mine - theirs[name]).square().sum()) for name, mine in one.tensors())
    return math.sqrt(gap / sum(float(mine.square().sum()) for _, mine in one.tensors()))


@pytest.mark.parametrize(("one", "other"), combinations(ALIKE, 2))
def test_the_method_changes_what_clients_upload_next(runs: dict[str, Done], one: str, other: str):
    """The third round starts from what two rounds of aggregation made; every client's upload differs.

    Rounding, which local training makes larger, comes to 1e-5.
    """
    mine, theirs = (runs[name].uploads[2] for name in (one, other))
    found = [difference(mine[client], theirs[client]) for client in mine]
    if frozenset({one, other}) in SAME_BY_MATHEMATICS:
        assert max(found) < 1e-3
    elif frozenset({one, other}) == {"flexlora", "spectral"}:
        assert max(found) > 1e-2  # the first rank indices of both are the best approximation, until one keeps no more
    else:
        assert min(found) > 1e-2
