"""A secure sum over real processes: the plain run's adapter, and a node that is killed between masks and sum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.deployment import Deployment, Processes, wait

from polyrank import config as configuration
from polyrank.runs.runner import run
from tests.deployment.world import SMALL, lines, running, state

pytestmark = pytest.mark.long

RANKS = (20, 20, 5, 2)
"""As the policy gives them: every row has two owners at least, also without the last client."""
SECURE = [
    *SMALL,
    *("federation.clients=4", "federation.rounds=3", "ranks.counts=[1, 1, 2]", "secure.enabled=true"),
    *("aggregation.method=owner_mean", "aggregation.weights=uniform"),
    "training.lanes=1",
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("secure-logs")) as made:
        yield made


def test_real_nodes_give_the_plain_runs_adapter_and_one_may_die_after_it_has_shared_its_secrets(
    processes: Processes, tmp_path: Path
):
    """Two rounds of four nodes that would train for nothing but a secure sum. In the third the last node is killed in
    its third process of the round, in which it trains: its masks are made up for, and the others' sum counts."""
    deployment = Deployment(tmp_path / "there", processes, nodes=len(RANKS))
    nodes = []
    for i, rank in enumerate(RANKS):
        deployment.register(i)
        nodes.append(deployment.node(i, f"partition-id={i} lora-rank={rank} secure=true"))
    wait(lambda: deployment.online() == len(RANKS), 180, "not all nodes were online")
    out = tmp_path / "run"
    deployment.run(deployment.init(tmp_path / "app", out, SECURE), repeats=1, timeout=300.0)
    plain = [value for value in SECURE if not value.startswith("secure.")]
    run(configuration.load(None, [*plain, "federation.rounds=2"]), tmp_path / "plain")
    try:
        wait(lambda: out.exists() and len(lines(out)) == 2 and state(out).round == 2, 600, "no second round")
        ours, theirs = state(out), state(tmp_path / "plain")
        assert tuple(ours.ranks.values()) == RANKS
        assert ours.ranks == theirs.ranks
        for (name, a), (_, b) in zip(ours.adapter.tensors(), theirs.adapter.tensors(), strict=True):
            assert float((a - b).abs().max()) < 2e-5, name
        seen: set[int] = set()

        def trains() -> bool:
            seen.update(one.pid for one in running("flwr-clientapp", nodes[3].pid))
            return len(seen) == 3

        wait(trains, 300, "the last node did not come to the third step")
        processes.kill(nodes[3])
        wait((out / "summary.json").is_file, 400, "the third round did not end")
    except (TimeoutError, RuntimeError) as error:
        pytest.fail(f"{error}\n{processes.output()}")
    found = lines(out)
    assert [line["dropped"] for line in found[:2]] == [{}, {}]
    assert found[2]["dropped"].keys() == {"client-03"}
    assert state(out).round == 3
