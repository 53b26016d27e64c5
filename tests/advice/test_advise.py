"""What to use: rules that follow from a configuration, and pilots that are real rounds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyrank.advice import Advice, advise
from polyrank.advice.candidates import LIKELY, OPEN, by_rules, possible
from polyrank.advice.pilot import Candidate, Trial, ahead, clearly, pilot
from polyrank.cli import app
from polyrank.config import Config
from polyrank.config.variants import with_method
from polyrank.core.errors import ConfigError
from polyrank.federation.planned import planned
from polyrank.federation.server import build
from polyrank.runs.runner import run
from tests.conftest import Configure
from tests.runs.runs import final

SECURE = ("secure.enabled=true", "aggregation.weights=uniform", "evaluation.diagnostics=false")
SCORED = ("aggregation.robust=median", "federation.participation=1.0", "ranks.policy=validation")


def _ruled(config: Config) -> str:
    return by_rules(config, planned(config)).method


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ((), "validated"),
        (("ranks.policy=random",), "validated"),
        (("privacy.model=central", "privacy.clip=1", "privacy.noise=1", "aggregation.weights=uniform"), "ffa"),
        (("aggregation.robust=median", "federation.participation=1.0"), "tempered"),
        (SCORED, "replication"),
    ],
)
def test_the_rules_name_a_method_that_the_configuration_can_have(
    configure: Configure, overrides: tuple[str, ...], method: str
):
    config = configure(*overrides)
    assert _ruled(config) == method
    assert method in possible(config, planned(config), [method])


def test_a_large_step_makes_the_rule_for_good_owners_an_open_one(configure: Configure):
    calm, large = (configure(*SCORED, f"training.lr={lr}") for lr in (1e-3, 1e-2))
    assert by_rules(large, planned(large)).sure == OPEN != by_rules(calm, planned(calm)).sure
    assert "it was behind" in by_rules(large, planned(large)).why


def test_options_stay_with_the_method_that_they_are_of(configure: Configure):
    config = configure("aggregation.method=tempered", "aggregation.options={gamma=0.25}")
    assert with_method(config, "tempered").aggregation.options == {"gamma": 0.25}
    assert with_method(config, "validated").aggregation.options == {}


def _trial(*losses: float) -> Trial:
    return Trial(Candidate("fedavg"), losses, 1.0)


def test_ahead_by_more_than_the_rounds_scatter():
    steady, noisy = _trial(1.0, 0.9, 0.8, 0.7), _trial(1.3, 0.6, 1.2, 0.5)
    behind = _trial(1.2, 1.1, 1.05, 0.9)
    assert ahead(steady, behind) == (pytest.approx(0.2125), 4)
    assert clearly(steady, behind)
    assert not clearly(behind, steady)
    assert not clearly(steady, noisy)
    assert not clearly(noisy, steady)


def test_a_loss_that_ran_away_is_behind_every_other():
    assert clearly(_trial(1.0, 1.0), _trial(1.0, math.nan))
    assert not clearly(_trial(1.0, math.nan), _trial(1.0, 1.0))
    assert _trial(1.0, math.nan).mean == math.inf


def test_a_pilots_rounds_are_those_of_a_run(configure: Configure, tmp_path: Path):
    """The last loss is that of the adapter which a run of so many rounds ends with, whatever was tried before."""
    config = configure("aggregation.method=validated", "federation.rounds=2")
    run(config, tmp_path / "run")
    candidates = [Candidate("replication"), Candidate("fedavg", rank=2), Candidate("validated")]
    trials = pilot(config, candidates, 2, lambda _: None)
    assert [len(trial.losses) for trial in trials] == [2, 2, 2]
    server = build(config)
    held, ended = server.site.validation, final(tmp_path / "run")
    assert held is not None
    assert trials[2].losses[1] == pytest.approx(server.site.measured(ended.adapter, None, held)["loss"], rel=1e-6)
    assert len({trial.losses for trial in trials}) == 3
    server.close()


def test_a_lower_rate_moves_less(configure: Configure):
    config = configure("training.lr=1e-3")
    still, moving = pilot(
        config, [Candidate("replication", lr_share=1e-6), Candidate("replication")], 2, lambda _: None
    )
    assert still.losses[0] == pytest.approx(still.losses[1], abs=1e-4)
    assert abs(moving.losses[0] - moving.losses[1]) > 1e-4


def test_the_advice_is_three_sentences_with_the_numbers_of_its_pilot(configure: Configure):
    config = configure()
    found = advise(config, rounds=2, tell=lambda _: None)
    names = [str(trial.candidate) for trial in found.trials]
    assert names == [
        *("validated", "replication", "zero_padding_delta", "fedavg, rank 2 for all"),
        "validated, 0.33 of the learning rate",
    ]
    _whole(found)
    best = min(found.trials[:3], key=lambda trial: trial.mean)
    assert f"{best.mean:.3f} with {best.candidate.method}" in found.sentences[0]
    assert "validation" in found.sentences[0]


def test_with_one_rank_for_all_the_mean_is_tried_alone(configure: Configure):
    config = configure("ranks.levels=[2]", "ranks.counts=[6]")
    found = advise(config, rounds=2, tell=lambda _: None)
    assert [trial.candidate.method for trial in found.trials] == ["validated", "fedavg", "validated"]
    assert "rank 2 for all" in found.sentences[1]


def _whole(found: Advice) -> None:
    assert len(found.sentences) == 3
    for sentence in found.sentences:
        assert sentence.endswith(".")
        assert sentence[0].isupper()


def test_without_a_pilot_nothing_is_loaded(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    config = configure()
    monkeypatch.setattr("polyrank.advice.pilot.build", None)
    found = advise(config, with_pilot=False)
    _whole(found)
    assert (found.method, found.sure, found.trials) == ("validated", LIKELY, ())
    assert "sends" in found.sentences[2]


def test_a_pilot_where_clients_are_hidden_is_refused(configure: Configure):
    with pytest.raises(ConfigError, match=r"do not allow it: .*--no-pilot"):
        advise(configure(*SECURE, "federation.participation=1.0"), tell=lambda _: None)
    with pytest.raises(ConfigError, match="--rounds is 1; expected 2 or more"):
        advise(configure(), rounds=1, tell=lambda _: None)


def test_the_command_prints_the_advice(configure: Configure, tmp_path: Path):
    import tomlkit

    path = tmp_path / "study.toml"
    values = configure().model_dump(mode="json", exclude_none=True)
    path.write_text(tomlkit.dumps(values), encoding="utf-8")
    shown = CliRunner().invoke(app, ["advise", str(path), "--no-pilot"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("Take validated: ")
    told = CliRunner().invoke(app, ["advise", str(path), "--no-pilot", "--json"])
    assert json.loads(told.output)["method"] == "validated"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["study.toml"]
