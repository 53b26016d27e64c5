"""Private runs over Flower's nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import polyrank
from polyrank.core.errors import ConfigError, FlowerError
from polyrank.federation import server
from polyrank.flower.client import least_noise
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, apart, grid, lines, state

CENTRAL = ("privacy.model=central", "privacy.noise=0.5", "privacy.delta=1e-2", "aggregation.weights=uniform")
LOCAL = ("privacy.model=local", "privacy.noise=2.0", "privacy.delta=1e-2", "aggregation.weights=uniform")


@pytest.mark.parametrize("share", ["0.5", "0.02"])
def test_central_privacy_gives_what_a_local_run_gives(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str
):
    """With a share of 0.02 nobody is asked in any round, and each is noised all the same."""
    monkeypatch.setattr(server, "new_secret", lambda: "known")
    config = configure(*CENTRAL, f"federation.participation={share}")
    polyrank.run(config, tmp_path / "local")
    serve(grid(), config, replace(QUICK, out=str(tmp_path / "flower")))
    assert apart(state(tmp_path / "local").adapter, state(tmp_path / "flower").adapter) < 1e-5
    for here, there in zip(lines(tmp_path / "local"), lines(tmp_path / "flower"), strict=True):
        assert here["privacy/epsilon"] == there["privacy/epsilon"]
        assert (there["clients"], there["dropped"]) == ([], {})


def test_the_budget_is_of_the_nodes_that_are_there(configure: Configure, tmp_path: Path):
    with pytest.raises(ConfigError, match="there are 5 nodes, and noise and budget were worked out for 6"):
        serve(grid(5), configure(*CENTRAL, "ranks.policy=random"), replace(QUICK, out=str(tmp_path), min_nodes=5))


def test_local_privacy_is_the_nodes_own(configure: Configure, tmp_path: Path):
    """What nodes tell of themselves has to be accepted; their secrets never leave them."""
    config = configure(*LOCAL)
    with pytest.raises(ConfigError, match="how many examples of each label"):
        serve(grid(), config, replace(QUICK, out=str(tmp_path / "refused")))
    accepted = config.model_copy(update={"privacy": config.privacy.model_copy(update={"accept": ["metrics"]})})
    nodes = grid()
    for name in "ab":
        serve(nodes, accepted, replace(QUICK, out=str(tmp_path / name)))
    assert apart(state(tmp_path / "a").adapter, state(tmp_path / "b").adapter) > 0.01
    asked = [str(m.content.config_records) for m in nodes.sent if m.metadata.message_type == "train"]
    assert all("'guard'" in text or '"guard"' in text for text in asked)
    assert all('"secret": ""' in text for text in asked)


def test_a_node_may_refuse_to_send_without_noise(configure: Configure, tmp_path: Path):
    nodes = grid(**{"least-noise": 2.0})
    little = ("privacy.noise=1.9", 'privacy.accept=["metrics"]')
    for i, asked in enumerate((["aggregation.weights=uniform"], [*LOCAL, *little])):
        config = configure(*asked)
        with pytest.raises(FlowerError, match=r"noise of 2 clips or more \(least-noise\), and (0|1.9) was asked for"):
            serve(nodes, config, replace(QUICK, out=str(tmp_path / f"{i}")))
    enough = configure(*LOCAL, 'privacy.accept=["metrics"]', "federation.rounds=1")
    serve(nodes, enough, replace(QUICK, out=str(tmp_path / "enough")))
    assert lines(tmp_path / "enough")[0]["dropped"] == {}


@pytest.mark.parametrize("value", [0.0, -1.0, True, "much", float("nan")])
def test_a_noise_that_is_none_is_refused(value: object):
    with pytest.raises(FlowerError, match=r"least-noise is .*; expected a number above 0"):
        least_noise({"least-noise": value})  # type: ignore[dict-item]


def test_no_round_is_repeated_under_local_privacy(configure: Configure, tmp_path: Path):
    """A second answer would be a second release with other noise."""
    nodes = grid(**{"least-noise": 3.0})
    config = configure(*LOCAL, 'privacy.accept=["metrics"]')
    with pytest.raises(FlowerError, match="least-noise"):
        serve(nodes, config, replace(QUICK, out=str(tmp_path), repeats=3))
    assert sum(message.metadata.message_type == "train" for message in nodes.sent) <= 6
