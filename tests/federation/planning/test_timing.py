"""The time that a run will compute, from what a step and a token take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from polyrank.config import Config
from polyrank.federation import server as servers
from polyrank.federation.planning import timing

STEP, TOKEN = 1.0, 0.001


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_of_a_step", lambda _: STEP)
    monkeypatch.setattr(timing, "_of_a_token", lambda _: TOKEN)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("overrides", "played", "steps", "measured"),
    [
        ((), 0, 36, 3),
        (("training.epochs=2",), 0, 72, 3),
        (("evaluation.rank_groups=true",), 0, 36, 5),
        (("evaluation.every=2",), 0, 36, 2),
        ((), 2, 12, 1),
    ],
)
def test_steps_and_tokens_are_counted(
    configure: Callable[..., Config], overrides: tuple[str, ...], *, played: int, steps: int, measured: int
):
    """192 texts over six clients are 32 each, four steps of 8; three clients and three rounds: 36 steps.

    Measured are all rounds, every second and the last, or the one that is left; and two rank groups.
    """
    server = servers.build(configure(*overrides))
    found = timing.seconds(server, played)
    assert found is not None
    assert found.training == pytest.approx(steps * STEP)
    assert found.measuring == pytest.approx(measured * TOKEN * int(server.site.test.lengths.sum()))
    assert (found.scoring, found.total) == (0, found.training + found.measuring)
    server.close()


@pytest.mark.usefixtures("known")
def test_every_client_is_scored(configure: Callable[..., Config]):
    """The validation set takes 32 texts; six clients have 26 or 27 each, four steps, and are measured on these 32."""
    server = servers.build(configure("ranks.policy=validation", "ranks.validation_per_label=16"))
    found = timing.seconds(server)
    assert found is not None
    assert server.site.validation is not None
    assert found.scoring == pytest.approx(6 * 4 * STEP + 6 * TOKEN * int(server.site.validation.lengths.sum()))
    assert found.training == pytest.approx(3 * 3 * 4 * STEP)
    server.close()


def test_a_few_steps_are_timed_and_leave_nothing_behind(configure: Callable[..., Config]):
    """What the site has installed may change; what a run begins with does not."""
    server = servers.build(configure())
    before = server.initial_state().adapter
    found = timing.seconds(server)
    assert found is not None
    assert 0 < found.training < 60
    assert 0 < found.measuring < 60
    after = server.initial_state().adapter
    for (name, ours), (_, theirs) in zip(before.tensors(), after.tensors(), strict=True):
        assert ours.equal(theirs), name
    server.close()


def test_a_cluster_is_not_guessed(configure: Callable[..., Config]):
    server = servers.build(configure())
    elsewhere = server.config.training.model_copy(update={"cluster": "ray"})
    assert timing.seconds(replace(server, config=server.config.model_copy(update={"training": elsewhere}))) is None
    server.close()
