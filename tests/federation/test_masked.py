"""Whole runs whose server sees sums alone, in one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import config as configuration
from polyrank.aggregation import METHODS, build
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, SecureError
from polyrank.core.state import ServerState
from polyrank.federation.contribution import Plan
from polyrank.federation.masked import Here, Masked, check_secure, contributed
from polyrank.federation.server import Server
from polyrank.ranks.registry import policy
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from polyrank.training.guarded import Guarded
from polyrank.training.work import Outcome, Work
from tests.conftest import Configure


def state(folder: Path) -> ServerState:
    return checkpoint.load(folder / "checkpoint")


def apart(one: Adapter, other: Adapter) -> float:
    return max(float((a - b).abs().max()) for (_, a), (_, b) in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("method", ["replication", "owner_mean", "zero_padding", "ffa"])
def test_ranks_2_5_and_20_give_the_plain_runs_adapter(secure: Configure, tmp_path: Path, method: str):
    """Three rounds: after the first, both are apart by the step of the numbers, and train on."""
    config = secure(f"aggregation.method={method}")
    run(config, tmp_path / "secure")
    run(configuration.override(config, ["secure.enabled=false"]), tmp_path / "plain")
    ours, theirs = state(tmp_path / "secure"), state(tmp_path / "plain")
    assert (ours.round, ours.ranks) == (theirs.round, theirs.ranks)
    assert apart(ours.adapter, theirs.adapter) < 2e-5
    for one, other in zip(*(RunFolder(tmp_path / way).read_metrics() for way in ("secure", "plain")), strict=True):
        assert one["test/loss"] == pytest.approx(other["test/loss"], abs=1e-5)
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-5)
        assert one["rows/owners_weight"] == pytest.approx(other["rows/owners_weight"])
        assert one["bytes/up"] > other["bytes/up"]
        assert one["dropped"] == {}


class Recording(Here):
    """Remembers all that the server is given, and beside it what the clients would have sent in the clear."""

    given: list[Any]
    plain: dict[str, np.ndarray]

    def _recorded(self, value: Any) -> Any:
        type(self).given.append(value)
        return value

    def cards(self, token: str, clients: Sequence[str]) -> Any:
        return self._recorded(super().cards(token, clients))

    def sealed(self, roster: Any) -> Any:
        return self._recorded(super().sealed(roster))

    def masked(self, plan: Plan, inboxes: Mapping[str, Mapping[str, str]]) -> Any:
        works = [self.works[client] for client in inboxes]
        config, method = self.server.config, self.server.method
        for outcome in self.server.engine.run(works):
            work = self.works[outcome.client]
            type(self).plain[outcome.client] = contributed(plan, method, config, work, outcome)
        return self._recorded(super().masked(plan, inboxes))

    def shares(self, survivors: Sequence[str]) -> Any:
        return self._recorded(super().shares(survivors))


def test_the_server_is_given_nothing_but_keys_shares_and_masked_numbers(secure: Configure, tmp_path: Path):
    Recording.given, Recording.plain = [], {}

    def over(server: Server) -> Server:
        return replace(server, gather=Masked(Recording))

    run(secure("federation.rounds=1"), tmp_path / "run", over=over)
    cards, boxes, masked, shares = Recording.given
    assert len(Recording.plain) == 6
    for client, vector in masked.items():
        plain = Recording.plain[client]
        assert (vector.shape, vector.dtype) == (plain.shape, np.uint32)
        assert np.mean(vector == plain) < 1e-2
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 8 * np.sqrt(2 * 255)
        for other, theirs in masked.items():
            assert other == client or np.mean(vector - theirs == plain - Recording.plain[other]) < 1e-2
    words = sum(len(repr(one)) for one in (cards, boxes, shares))
    assert words < 3 * min(len(plain) for plain in Recording.plain.values())  # no room for anybody's numbers


class Failing(Here):
    """Loses clients at a step, of the first attempts alone."""

    lost: Mapping[str, set[str]]
    attempts: int
    times: int

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        type(self).attempts += 1

    def _left(self, step: str, found: Mapping[str, Any]) -> Mapping[str, Any]:
        lost = self.lost.get(step, set()) if self.attempts <= self.times else set()
        self.failures |= dict.fromkeys(lost, "its process ended")
        return {client: value for client, value in found.items() if client not in lost}

    def masked(self, plan: Plan, inboxes: Mapping[str, Mapping[str, str]]) -> Any:
        return self._left("masked", super().masked(plan, inboxes))

    def shares(self, survivors: Sequence[str]) -> Any:
        return self._left("shares", super().shares(survivors))


def failing(lost: Mapping[str, set[str]], times: int = 1, repeats: int = 0) -> Any:
    Failing.lost, Failing.attempts, Failing.times = lost, 0, times

    def over(server: Server) -> Server:
        return replace(server, gather=Masked(Failing, repeats=repeats))

    return over


SIX = ("client-00", "client-01", "client-02", "client-03", "client-04", "client-05")


def test_a_round_counts_without_a_client_that_drops_out(secure: Configure, tmp_path: Path):
    """The same as a plain round of the five others, in which that client failed."""
    config = secure("federation.rounds=1", "aggregation.method=owner_mean", "ranks.levels=[2,5]", "ranks.counts=[3,3]")
    run(config, tmp_path / "secure", over=failing({"masked": {"client-05"}}))

    def without(server: Server) -> Server:
        class Losing(Guarded):
            def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
                for outcome in super().run(works):
                    lost = outcome.client == "client-05"
                    yield Outcome(outcome.client, problem="its process ended") if lost else outcome

        return replace(server, engine=Losing(server.engine))

    run(configuration.override(config, ["secure.enabled=false"]), tmp_path / "plain", over=without)
    (ours,), (theirs,) = (RunFolder(tmp_path / way).read_metrics() for way in ("secure", "plain"))
    assert ours["dropped"] == theirs["dropped"] == {"client-05": "its process ended"}
    assert apart(state(tmp_path / "secure").adapter, state(tmp_path / "plain").adapter) < 2e-6


def test_a_client_that_is_lost_before_the_sum_is_opened_is_in_it(secure: Configure, tmp_path: Path):
    config = secure("federation.rounds=1")
    run(config, tmp_path / "one", over=failing({"shares": {"client-03"}}))
    run(config, tmp_path / "other")
    assert apart(state(tmp_path / "one").adapter, state(tmp_path / "other").adapter) == 0
    assert RunFolder(tmp_path / "one").read_metrics()[0]["dropped"] == {}


def test_a_round_that_reveals_too_little_is_repeated(
    secure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Three of six masked sums are no majority; the second attempt is whole, and its bytes count beside the first's."""
    config = secure("federation.rounds=1")
    with caplog.at_level(logging.WARNING, logger="polyrank"):
        run(config, tmp_path / "one", over=failing({"masked": set(SIX[:3])}, repeats=1))
    assert "round 1 is repeated: 3 clients sent their masked sums, expected 5" in caplog.text
    run(config, tmp_path / "other")
    assert apart(state(tmp_path / "one").adapter, state(tmp_path / "other").adapter) == 0
    (one,), (other,) = (RunFolder(tmp_path / way).read_metrics() for way in ("one", "other"))
    assert one["bytes/up"] > 1.4 * other["bytes/up"]


def test_a_round_that_never_comes_to_a_sum_stops_the_run_with_what_was_saved(secure: Configure, tmp_path: Path):
    config = secure()
    with pytest.raises(
        SecureError, match=r"3 clients helped to open the sum, expected 5 .*client-00: its process ended"
    ):
        run(config, tmp_path / "run", over=failing({"shares": set(SIX[:3])}, times=9, repeats=1))
    assert state(tmp_path / "run").round == 0


def test_a_resumed_run_ends_at_the_same_bits(secure: Configure, tmp_path: Path):
    """Masks are drawn anew, and sums of whole numbers are the same."""
    config = secure()
    run(config, tmp_path / "whole")
    run(configuration.override(config, ["federation.rounds=2"]), tmp_path / "parts")
    run(config, tmp_path / "parts", resume=True)
    assert state(tmp_path / "whole").adapter.identical(state(tmp_path / "parts").adapter)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["aggregation.method=flexlora"], "needs every client's factors"),
        (["aggregation.method=shrinkage"], "needs every client's factors"),
        (["aggregation.method=hetlora"], "weighs clients by what they send"),
        (["aggregation.method=fslora"], "with aggregation.method fslora a client owns others than the first rows"),
        (["aggregation.method=lora_a2"], "with aggregation.method lora_a2 a client owns others than the first rows"),
        (["aggregation.options.align=rotation"], "turns clients towards an adapter that they lack"),
        (["aggregation.method=fedsa"], "b and head would stay with each client"),
        (["federation.head=local"], "head would stay with each client"),
        (["ranks.policy=validation"], "ranks.policy validation scores each client's adapter"),
        (["ranks.policy=self_pruning"], "ranks.policy self_pruning looks at each client's update"),
        (["federation.participation=0.2"], "1 clients take part in a round, expected 2 or more"),
        (["secure.min_owners=7"], "6 clients take part in a round, expected 7 or more"),
    ],
)
def test_what_needs_a_clients_own_factors_is_refused(secure: Configure, tmp_path: Path, values: list[str], why: str):
    with pytest.raises(ConfigError, match=f"secure.enabled: .*{why}"):
        run(secure(*values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_said_of_a_method_is_what_a_run_does(secure: Configure, name: str):
    """`polyrank methods` says "yes" where a secure sum is not refused."""
    config = secure(f"aggregation.method={name}")
    method = build(name, {})
    try:
        check_secure(config, method, policy(config.ranks), 6)
    except ConfigError:
        assert not method.secure
    else:
        assert method.secure


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("secure.clip=0.001", "holds a value beyond"),
        ("secure.max_weight=3", "weight holds a value beyond 3 "),
    ],
)
def test_what_is_out_of_range_is_not_sent_and_named(secure: Configure, tmp_path: Path, value: str, why: str):
    with pytest.raises(SecureError, match=f"0 clients sent their masked sums.*{why}.*nothing was sent"):
        run(secure(value), tmp_path / "run")
