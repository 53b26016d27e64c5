"""Private runs from their start to their end: what they draw, say, keep and forget."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path

import pytest
from dp_accounting.pld import privacy_loss_distribution

from polyrank import config as configuration
from polyrank.core.errors import ConfigError
from polyrank.federation import server
from polyrank.privacy import Guard
from polyrank.report import page
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare
from polyrank.runs import secret
from polyrank.runs.listener import Listener
from polyrank.runs.runner import run, saved_config
from tests.conftest import Configure
from tests.runs.doubles import Stop
from tests.runs.runs import assert_same_run, final, interrupt, metrics

CENTRAL = (
    "privacy.model=central",
    "privacy.delta=1e-3",
    "privacy.noise=1.5",
    "aggregation.weights=uniform",
    "privacy.clip=0.5",
)
LOCAL = ("privacy.model=local", "privacy.noise=20.0", "aggregation.weights=uniform", "privacy.clip=0.5")


@pytest.fixture
def known_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "new_secret", lambda: "known")


def test_a_round_says_what_it_cost_and_nothing_of_who_came(configure: Configure, tmp_path: Path):
    summary = run(configure(*CENTRAL), tmp_path)
    lines = metrics(tmp_path)
    spent = [line["privacy/epsilon"] for line in lines]
    assert 0 < spent[0] < spent[1] < spent[2] == summary["privacy/epsilon"]
    assert summary["privacy"]["noise"] == 1.5
    allowed = (
        "round",
        "test/",
        "bytes/",
        "rows/energy",
        "clients",
        "dropped",
        "aggregation/clip",
        "privacy/",
        "seconds",
    )
    for line in lines:
        assert all(key.startswith(allowed) for key in line), line.keys()
        assert (line["clients"], line["dropped"]) == ([], {})
    clients = json.loads((tmp_path / "clients.json").read_text())["clients"]
    assert {key for about in clients.values() for key in about} == {"rank", "group"}
    assert "tokens" not in summary


def test_what_is_accepted_is_said(configure: Configure, tmp_path: Path):
    run(configure(*CENTRAL, 'privacy.accept=["metrics"]'), tmp_path)
    assert all("train/loss" in line and "privacy/epsilon" in line for line in metrics(tmp_path))


def test_the_secret_is_there_until_the_end_for_the_owner_alone(configure: Configure, tmp_path: Path):
    seen: list[tuple[int, str]] = []

    class Look(Listener):
        def on_round(self, metrics: object) -> None:  # noqa: ARG002
            path = tmp_path / secret.NAME
            seen.append((stat.S_IMODE(path.stat().st_mode), path.read_text()))

    run(configure(*CENTRAL), tmp_path, listener=Look())
    assert {mode for mode, _ in seen} == {0o600}
    (held,) = {text for _, text in seen}
    assert len(held) == 64
    assert not (tmp_path / secret.NAME).exists()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or held.encode() not in path.read_bytes(), path


def test_a_run_in_the_place_of_a_stopped_one_has_a_secret_of_its_own(configure: Configure, tmp_path: Path):
    interrupt(configure(*CENTRAL), tmp_path, after_round=1)
    before = (tmp_path / secret.NAME).read_text()
    with pytest.raises(KeyboardInterrupt):
        run(configure(*CENTRAL), tmp_path, overwrite=True, listener=Stop(after_round=1))
    assert (tmp_path / secret.NAME).read_text() != before


def test_two_runs_of_one_seed_draw_different_noise(configure: Configure, tmp_path: Path):
    for name in "ab":
        run(configure(*CENTRAL), tmp_path / name)
    assert not final(tmp_path / "a").adapter.identical(final(tmp_path / "b").adapter)


@pytest.mark.usefixtures("known_secret")
@pytest.mark.parametrize(
    "options",
    [
        (*CENTRAL, "privacy.quantile=0.5"),
        LOCAL,
        (*CENTRAL, "privacy.sampling=fixed"),
        (*CENTRAL, "privacy.quantile=0.5", "aggregation.server=adam", "aggregation.server_lr=0.01"),
        (*LOCAL, "training.proximal=20", "training.rounds_decay=linear", "aggregation.server=momentum"),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_end(configure: Configure, tmp_path: Path, options: tuple[str, ...]):
    config = configure(*options)
    run(config, tmp_path / "whole")
    interrupt(config, tmp_path / "stopped", in_round=2)
    run(saved_config(tmp_path / "stopped"), tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_ends_with_its_budget(configure: Configure, tmp_path: Path):
    summary = run(
        configure(*CENTRAL, "federation.rounds=300", "privacy.noise=9.0", "privacy.budget=4", "privacy.sampling=fixed"),
        tmp_path,
    )
    assert 0 < summary["rounds"] < 300
    assert summary["privacy/epsilon"] <= 4
    assert saved_config(tmp_path).federation.rounds == summary["rounds"]


def test_under_local_privacy_the_cohort_is_known_and_losses_are_not(configure: Configure, tmp_path: Path):
    run(configure(*LOCAL), tmp_path)
    for line in metrics(tmp_path):
        assert len(line["clients"]) == 3
        assert line["train/loss"] is None


def test_poisson_cohorts_have_the_share_and_may_be_empty(configure: Configure):
    config = configure(*CENTRAL, "federation.participation=0.2")
    names = [f"c{i}" for i in range(6)]
    drawn = [server.drawn(config, names, number, "s") for number in range(2000)]
    assert sum(map(len, drawn)) / (2000 * 6) == pytest.approx(0.2, abs=0.02)
    assert any(len(one) == 0 for one in drawn)
    assert {len(one) for one in drawn} >= {0, 1, 2, 3}


@pytest.mark.usefixtures("known_secret")
def test_a_round_that_nobody_takes_part_in_is_a_round(configure: Configure, tmp_path: Path):
    run(configure(*CENTRAL, "federation.participation=0.01"), tmp_path)
    assert len(metrics(tmp_path)) == 3


def test_the_report_of_a_private_run_is_written(configure: Configure, tmp_path: Path):
    run(configure(*CENTRAL), tmp_path / "run")
    groups = grouped(find([tmp_path / "run"]))
    text = page.html(tmp_path / "report.html", groups, compare(groups))
    assert "Privacy spent" in text
    assert f"{metrics(tmp_path / 'run')[-1]['privacy/epsilon']:.3f}" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("aggregation.method=flora",), "flora is no sum over clients"),
        (("aggregation.method=shrinkage",), "shrinkage is no sum over clients"),
        (("aggregation.method=hetlora", "ranks.policy=self_pruning"), "hetlora weighs clients by what they learned"),
        (("aggregation.method=fed_plora",), "with aggregation.method fed_plora a client owns others than the first"),
        (("aggregation.method=lora_a2",), "with aggregation.method lora_a2 a client tells which rank indices"),
        (("aggregation.method=lora_a2", "privacy.model=local"), "with aggregation.method lora_a2 a client tells"),
        (("secure.enabled=true",), "it sees none"),
        (("aggregation.robust=median",), "clients are compared with one another"),
        (("aggregation.weights=examples",), "numbers of examples are the clients' own"),
        (("privacy.most_examples=10",), "aggregation.weights is uniform; expected one of them"),
        (("ranks.policy=validation",), "validation looks at the clients' data"),
        (("ranks.policy=self_pruning",), "self_pruning looks at the clients' data"),
        (("aggregation.method=owner_mean", 'aggregation.options={align="rectangular"}'), "every client owns all rows"),
    ],
)
def test_what_cannot_be_kept_private_is_refused(
    configure: Configure, tmp_path: Path, more: tuple[str, ...], message: str
):
    with pytest.raises(ConfigError, match=message):
        run(configure(*CENTRAL, *more), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["federation.head=local"], ["aggregation.method=fedsa"]])
@pytest.mark.parametrize("model", [CENTRAL, LOCAL])
def test_models_that_no_noise_hides_are_not_measured(
    configure: Configure, tmp_path: Path, options: list[str], model: tuple[str, ...]
):
    """What stays with each client has no noise, so what is measured of it tells of who came."""
    with pytest.raises(ConfigError, match="would stay with each client, and what is measured"):
        run(configure(*model, *options), tmp_path / "run")
    accepted = ['privacy.accept=["metrics"]', *(["privacy.sampling=fixed"] if model is CENTRAL else [])]
    run(configure(*model, *options, *accepted, "federation.rounds=1"), tmp_path / "run")


def test_a_head_that_stays_is_as_it_was_trained_under_local_noise(configure: Configure, tmp_path: Path):
    options = ("federation.head=local", 'privacy.accept=["metrics"]', "privacy.noise=1e6", "federation.rounds=1")
    run(configure(*LOCAL, *options), tmp_path)
    heads = final(tmp_path).personal
    assert heads
    assert all(float(t.abs().max()) < 10 for own in heads.values() for t in own.values())


def test_the_scoring_round_is_a_release_that_epsilon_counts(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each update that a client hides counts: with one round beside the scoring round, two."""
    hidden: Counter[str] = Counter()
    hide = Guard.hide

    def counted(self: Guard, trained: object, start: object, purpose: tuple[str, int]) -> object:
        hidden[purpose[0]] += 1
        return hide(self, trained, start, purpose)  # type: ignore[arg-type]

    monkeypatch.setattr(Guard, "hide", counted)
    options = ("ranks.policy=validation", 'privacy.accept=["ranks"]', "federation.rounds=1", "privacy.delta=1e-3")
    summary = run(configure(*LOCAL, *options), tmp_path)
    assert max(hidden.values()) == 2
    twice = privacy_loss_distribution.from_gaussian_mechanism(10.0).self_compose(2)
    assert summary["privacy/epsilon"] == pytest.approx(twice.get_epsilon_for_delta(1e-3), rel=1e-5)


def test_ranks_by_data_can_be_accepted(configure: Configure, tmp_path: Path):
    accepted = ("ranks.policy=validation", "ranks.validation_per_label=10", 'privacy.accept=["ranks"]')
    run(configure(*CENTRAL, *accepted, "federation.rounds=1"), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["privacy.model=central"], "neither noise nor budget"),
        (["privacy.model=central", "privacy.noise=0"], "expected a number above 0, or auto"),
        (["privacy.model=central", "privacy.noise=1.0", "privacy.delta=1"], "less than 1"),
        (["privacy.budget=8", "privacy.clip=0.1"], "model is none, and clip, budget is set: nothing would be private"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(options: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        configuration.load(None, options)
