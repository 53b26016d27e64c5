from __future__ import annotations

import pytest

from polyrank import config as configuration
from polyrank.core.errors import ConfigError
from polyrank.site.worker import LocalWorker

FEW = ("data.limit_train=100", "data.limit_test=20", "training.precision=float32", "training.attention=eager")
QUICK = (*FEW, "training.engine=sequential", "data.max_tokens=16")


def test_a_site_with_one_client_has_all_of_its_data_whatever_the_policies_are():
    """The quickstart's own policy would keep 20 texts of each label back, more than there are."""
    policies = ("ranks.policy=validation", "ranks.levels=[5,20]", "data.partition=quality-groups")
    worker = LocalWorker.from_config(configuration.load(None, (*QUICK, "federation.clients=1", *policies)))
    facts = worker.facts("whatever the server calls it")
    assert facts.examples == 100
    assert sum(facts.labels) == 100
    assert all(len(shape) == 2 for shape in facts.parameters.values())


def test_with_several_clients_the_name_picks_one():
    several = ("federation.clients=4", "ranks.policy=fixed", "ranks.levels=[2]", "data.partition=iid")
    worker = LocalWorker.from_config(configuration.load(None, (*QUICK, *several)))
    assert {worker.facts(client).examples for client in worker.federation.clients} == {25}
    with pytest.raises(ConfigError, match="there is no client 'client-9' here; this site holds client-"):
        worker.facts("client-9")
