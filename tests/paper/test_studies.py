from __future__ import annotations

from pathlib import Path

import pytest
from paper.run import load_config, planned
from paper.studies import TABLES

from polyrank import aggregation
from polyrank.comparison.entries import entries
from polyrank.federation.population import global_rank
from polyrank.ranks import level_counts

STUDIES = [(table, study) for table, studies in TABLES.items() for study in studies]


@pytest.mark.parametrize(("table", "study"), STUDIES, ids=[f"{table}-{study.name}" for table, study in STUDIES])
def test_every_study_is_a_valid_configuration_with_three_seeds_or_more(table: str, study):
    config = load_config(study.data, study.overrides, None, None)
    runs = list(planned(study, config))
    assert len(study.seeds) >= (1 if table == "smollm2" else 3)  # a run of the real model takes 18 minutes and more
    assert len({(entry.name, seed) for entry, seed in runs}) == len(runs)
    clients = config.federation.clients or 100
    assert sum(level_counts(config.ranks, clients)) == clients
    assert [study.name for study in TABLES[table]].count(study.name) == 1


def test_the_seed_papers_setting():
    """100 clients, a tenth balanced, a tenth in a round, one epoch, ranks 20 and 5, against 5, 7 and 20 for all."""
    for study in TABLES["curves"]:
        config = load_config(study.data, study.overrides, None, None)
        assert (config.federation.clients, config.federation.participation, config.training.epochs) == (100, 0.1, 1)
        assert level_counts(config.ranks, 100) == [90, 10]
        assert config.data.balanced_share == 0.1
        names = {entry.name: global_rank(entry.config) for entry in entries(config, study.methods)}
        baselines = {"fedavg-rank-5": 5, "fedavg-rank-7": 7, "fedavg-rank-20": 20}
        assert names == {"replication": 20, "zero_padding": 20, "hetlora": 20, **baselines}


def test_the_head_to_head_has_every_method():
    for study in TABLES["methods"]:
        assert set(study.methods) == aggregation.METHODS.keys()


def test_local_files_take_the_place_of_the_hub(tmp_path: Path):
    config = load_config("ag_news", (), str(tmp_path / "model"), tmp_path)
    assert config.data.train == str(tmp_path / "ag_news" / "train.csv")
    assert config.model.name == str(tmp_path / "model")
    assert load_config("dbpedia", (), None, None).data.text == "content"
