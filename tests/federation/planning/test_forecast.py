from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.aggregation import METHODS
from polyrank.config import Config
from polyrank.core.errors import ConfigError, DataError, ModelError
from polyrank.federation.planning.forecast import Forecast, Span, forecast
from polyrank.federation.planning.outlook import outlook
from polyrank.federation.round import cohort
from polyrank.runs.runner import run
from tests.conftest import Configure

PLANNING = Path(__file__).parents[3] / "examples" / "planning"


def ahead(config: Config) -> Forecast:
    return forecast(outlook(config))


def ran(config: Config, folder: Path) -> tuple[int, int]:
    """Bytes up and down of a finished run, which are those of its lines and of its scoring round."""
    summary = run(config, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scoring = json.loads((folder / "clients.json").read_text())["scoring"]
    for way in ("bytes/up", "bytes/down"):
        assert summary[way] == sum(line[way] for line in lines) + scoring[way]
    return summary["bytes/up"], summary["bytes/down"]


EXACT = sorted(set(METHODS) - {"fedavg", "florist"})


@pytest.mark.parametrize("method", EXACT)
def test_the_bytes_are_those_that_a_finished_run_reports(configure: Configure, tmp_path: Path, method: str):
    """Two levels of ranks, and rounds that differ: those that alternate, and base changes that grow."""
    config = configure(f"aggregation.method={method}", "federation.participation=0.34", "ranks.levels=[1,2]")
    found = ahead(config)
    assert (found.up.exact, found.down.exact, found.notes) == (True, True, ())
    assert ran(config, tmp_path / "run") == (found.up.most, found.down.most)


def test_a_plan_says_that_it_does_not_count_masked_sums(configure: Configure):
    found = ahead(configure("secure.enabled=true", "federation.participation=1.0"))
    assert any("bytes are those of plain rounds" in note for note in found.notes)


def mistral(*overrides: str) -> Config:
    """Mistral-7B by its config.json alone: no weights, no tokenizer, no data."""
    return configuration.load(PLANNING / "flowertune.toml", [f"model.name={PLANNING / 'mistral-7b'}", *overrides])


def test_flowertune_s_baseline_sends_what_flower_publishes():
    """40.6 GiB for 200 rounds of 2 clients, both ways; https://flower.ai/benchmarks/llm-leaderboard says 40.7 GB."""
    found = ahead(mistral())
    (level,) = found.levels
    assert (found.cohort, found.head) == (2, 0)
    assert level.parameters == Span(13_631_488, 13_631_488)  # 32 layers of rank 32: q 4096 + 4096, v 4096 + 1024
    assert level.up == level.down == Span(54_525_952, 54_525_952)
    assert round((found.up.most + found.down.most) / 2**30, 3) == 40.625


def between(found: tuple[int, int], ahead: Forecast) -> bool:
    return all((span.least or 0) <= one <= span.most for one, span in zip(found, (ahead.up, ahead.down), strict=True))


@pytest.mark.parametrize("method", ["replication", "flora", "fedsa"])
def test_where_a_scoring_round_decides_the_totals_lie_between_two(configure: Configure, tmp_path: Path, method: str):
    """The scoring round itself is known: every client at the lowest level, and up comes all that it trained."""
    config = configure(
        *(f"aggregation.method={method}", "ranks.policy=validation", "ranks.levels=[1,4]", "ranks.counts=[5,1]"),
        *("ranks.validation_per_label=4", "federation.participation=0.34"),
    )
    found = ahead(config)
    assert found.up.least is not None
    assert found.up.least < found.up.most
    assert any("scoring round decides" in note for note in found.notes)
    assert between(ran(config, tmp_path / "run"), found)
    scoring = json.loads((tmp_path / "run" / "clients.json").read_text())["scoring"]
    assert scoring == {"bytes/up": found.scoring.up, "bytes/down": found.scoring.down}


def test_the_bounds_are_those_of_the_clients_that_take_part_most_and_least(configure: Configure):
    """One of six clients gets rank 4: in the two cohorts of three it is in both rounds, or in none."""
    ranks = ("ranks.policy=validation", "ranks.levels=[2,4]", "ranks.counts=[5,1]", "federation.rounds=2")
    found = ahead(configure(*ranks))
    clients = [name for number in (1, 2) for name in cohort([f"client-{i:02d}" for i in range(6)], 0.5, 0, number)]
    often, seldom = (pick(clients.count(f"client-{i:02d}") for i in range(6)) for pick in (max, min))
    everyone, more = 6 * (2 * 512 + 136) + 6 * (2 * 512 + 136), 2 * 512  # see tests/runs/test_runner.py
    assert found.up == Span(everyone + seldom * more, everyone + often * more)


def test_what_clients_choose_of_modules_of_several_sizes_lies_between_two(configure: Configure, tmp_path: Path):
    """q of 16 x 16 and the first dense layer of 24 x 16, in two layers: a rank index of A is 16 numbers, of B 16 or 24.

    A client of rank 1 has 4 rank indices of R = 2 in each of 4 modules: all in the small ones, or all in the large.
    """
    targets = 'model.targets=["query", "intermediate.dense"]'
    config = configure("aggregation.method=lora_a2", "ranks.levels=[1,2]", "federation.participation=0.34", targets)
    found = ahead(config)
    assert found.up.least is not None
    assert found.up.least < found.up.most
    assert any("clients choose the rank indices" in note for note in found.notes)
    low = found.levels[0]
    assert (low.up.least, low.up.most) == (4 * 16 * 4 + HEAD, 4 * 24 * 4 + HEAD)
    assert found.down.exact
    up, down = ran(config, tmp_path / "run")
    assert found.up.least <= up <= found.up.most
    assert down == found.down.most


HEAD = 136
"""Bytes of the tiny model's head: 2 x 16 weights and 2 biases."""


def test_clients_that_may_shrink_send_less_or_as_much(configure: Configure, tmp_path: Path):
    config = configure("ranks.policy=self_pruning", "ranks.levels=[1,4]", "ranks.prune_keep=0.5", "federation.rounds=8")
    found = ahead(config)
    assert found.up.least is not None
    assert found.up.least < found.up.most
    assert between(ran(config, tmp_path / "run"), found)


def test_what_florist_keeps_is_between_a_rank_index_and_all(configure: Configure, tmp_path: Path):
    config = configure("aggregation.method=florist", "ranks.levels=[1,2]", "federation.participation=0.34")
    found = ahead(config)
    assert found.up.exact
    assert found.down.least is not None
    assert found.down.least < found.down.most
    assert between(ran(config, tmp_path / "run"), found)


@pytest.mark.parametrize("options", ["", "aggregation.options={max_rank=3}"])
@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_a_base_change_that_is_cut_is_known_from_above(configure: Configure, tmp_path: Path, method: str, options: str):
    config = configure(*filter(None, (f"aggregation.method={method}", "federation.rounds=4", options)))
    found = ahead(config)
    assert found.up.exact
    assert found.down.least is None
    assert any("at most" in note for note in found.notes)
    up, down = ran(config, tmp_path / "run")
    assert up == found.up.most
    assert found.down.most / 2 <= down <= found.down.most


def test_a_head_that_stays_is_trained_and_not_sent(configure: Configure, tmp_path: Path):
    config = configure("federation.head=local", "aggregation.method=owner_mean")
    found = ahead(config)
    assert [(level.rank, level.clients, level.parameters.most) for level in found.levels] == [
        (2, 4, 2 * 128 + 34),
        (4, 2, 4 * 128 + 34),
    ]
    assert [level.up.most for level in found.levels] == [1024, 2048]
    assert ran(config, tmp_path / "run") == (found.up.most, found.down.most)


def test_a_sampled_cohort_of_drawn_ranks_is_known(configure: Configure, tmp_path: Path):
    config = configure("ranks.policy=random", "federation.seed=5", "federation.participation=0.2")
    found = ahead(config)
    assert found.cohort == 1
    assert ran(config, tmp_path / "run") == (found.up.most, found.down.most)


def test_clients_that_the_data_name_are_counted_there(configure: Configure, tmp_path: Path):
    """Three owners; with their number in the configuration the data need not be there, and the cohorts are the same."""
    named = ("data.partition=by-column", "data.column=owner", "ranks.counts=[2,1]", "federation.participation=0.4")
    config = configure(*named).model_copy(
        update={"federation": configure().federation.model_copy(update={"clients": None, "participation": 0.4})}
    )
    assert ran(config, tmp_path / "run") == (ahead(config).up.most, ahead(config).down.most)
    absent = configuration.override(
        config, ["data.train=nowhere.csv", "task.name=classification", 'data.labels=["a","b"]']
    )
    assert ahead(absent) == ahead(config)


def test_data_that_are_not_there_are_said_to_be_missing_with_what_makes_up_for_them(configure: Configure):
    absent = ("data.train=nowhere.csv",)
    with pytest.raises(DataError, match=r"nowhere\.csv.*; to plan without the data, name the task"):
        ahead(configure(*absent))
    absent = (*absent, "task.name=classification")
    with pytest.raises(DataError, match=r"nowhere\.csv.*; to plan without the data, name the classes"):
        ahead(configure(*absent))
    absent = (*absent, 'data.labels=["a","b"]')
    assert ahead(configure(*absent)) == ahead(configure())
    with pytest.raises(DataError, match=r"nowhere\.csv.*; to plan without the data, set federation\.clients"):
        ahead(configure(*absent, "ranks.by_name={balanced=2}", "data.partition=quality-groups"))


def test_what_a_run_would_refuse_is_refused(configure: Configure, tmp_path: Path):
    with pytest.raises(ConfigError, match="fedavg needs clients of equal ranks"):
        ahead(configure("aggregation.method=fedavg"))
    with pytest.raises(ModelError, match=r"rank 17 is above the size of the layer"):
        ahead(configure("ranks.levels=[2,17]"))
    with pytest.raises(ModelError, match="no such folder"):
        ahead(configure("model.name=./nowhere"))
    with pytest.raises(ModelError, match="has no config"):
        ahead(mistral(f"model.name={tmp_path.parent}"))
    with pytest.raises(ModelError, match=r"'nothing' is no linear layer"):
        ahead(mistral('model.targets=["nothing"]'))


def test_equal_ranks_are_planned_too(configure: Configure, tmp_path: Path):
    config = configure("aggregation.method=fedavg", "ranks.levels=[3]", "ranks.counts=[6]")
    assert ran(config, tmp_path / "run") == (ahead(config).up.most, ahead(config).down.most)
