"""What a participant says of itself and does, whoever asks: with all of its data one client's, and with several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyrank import config as configuration
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ConfigError, ModelError
from polyrank.federation.loading import participant
from polyrank.federation.participant import OF_THE_BASE, Facts
from polyrank.federation.site import Site
from polyrank.training.work import Work
from tests import models, writers
from tests.conftest import Configure

FEW = ("data.limit_train=100", "data.limit_test=20", "training.precision=float32", "training.attention=eager")
QUICK = (*FEW, "training.engine=sequential", "data.max_tokens=16")


@pytest.fixture(scope="module")
def several(configure: Configure) -> Site:
    """Six clients with 32 of 192 examples each."""
    return participant(configure())


@pytest.fixture(scope="module")
def alone(configure: Configure) -> Site:
    return participant(configure("federation.clients=1"))


def work_of(site: Site, client: str) -> Work:
    return Work(client, 3, site.resident.initial(2, 2.0, 3), seed=5, trains=frozenset({"b", "head"}))


def changed(adapter: Adapter) -> Adapter:
    """A base change that shows in whatever is measured."""
    draw = torch.Generator().manual_seed(1)
    return Adapter(adapter.map(lambda tensor: torch.randn(tensor.shape, generator=draw)).modules)


def test_a_site_with_one_client_has_all_of_its_data_whatever_the_policies_are():
    """The quickstart's own policy would keep 20 texts of each label back, more than there are."""
    policies = ("ranks.policy=validation", "ranks.levels=[5,20]", "data.partition=quality-groups")
    site = participant(configuration.load(None, (*QUICK, "federation.clients=1", *policies)))
    facts = site.facts("whatever the server calls it")
    assert facts.examples == 100
    assert sum(facts.labels) == 100
    assert all(len(shape) == 2 for shape in facts.parameters.values())


def test_a_site_recomputes_layers_where_the_configuration_says_so(configure: Configure, several: Site):
    """The same updates to the bit; how often each layer is computed shows that it does."""
    again = participant(configure("training.gradient_checkpointing=true"))
    calls = dict.fromkeys((again, several), 0)
    for site in (again, several):
        query = next(iter(site.resident.layers.values())).get_base_layer()

        def count(*_: object, site: Site = site) -> None:
            calls[site] += 1

        with query.register_forward_hook(count):
            (found,) = site.engine.run([work_of(site, "client-00")])
        assert found.trained
    assert calls[again] == 2 * calls[several] > 0
    (one,), (other,) = (site.engine.run([work_of(site, "client-00")]) for site in (again, several))
    assert one.trained
    assert other.trained
    assert all(torch.equal(tensor, other.trained[name]) for name, tensor in one.trained.items())


def test_a_model_without_such_layers_is_refused_before_anything_is_trained(configure: Configure, tmp_path: Path):
    albert = models.save(tmp_path / "albert", "albert")
    with pytest.raises(ModelError, match="albert model has no layers that transformers could recompute"):
        participant(configure(f"model.name={albert}", "training.gradient_checkpointing=true"))


def test_facts_are_counts_names_shapes_and_digests(several: Site):
    facts = several.facts("client-00")
    counts = several.examples["client-00"].kind_counts(2)
    digests = {name: several.digests[name] for name in OF_THE_BASE if name in several.digests}
    assert len(digests) == 2
    assert facts == Facts(32, tuple(counts), several.resident.shapes, ("fruit", "pets"), digests, "Classification()")
    assert sum(counts) == 32


def test_a_model_that_writes_tells_its_template_too(tmp_path: Path):
    """What is trained depends on it; two that differ in nothing else are told apart."""
    told = {}
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        study = writers.study(tmp_path / name)
        if name == "theirs":
            template = tmp_path / name / "llama" / "chat_template.jinja"
            template.write_text(template.read_text(encoding="utf-8") + "{# theirs #}", encoding="utf-8")
        told[name] = participant(configuration.load(study / "study.toml")).facts("site-0").base
    assert told["ours"].keys() == set(OF_THE_BASE)
    assert [name for name, value in told["ours"].items() if told["theirs"][name] != value] == ["chat template"]


def test_with_several_clients_the_name_picks_one(several: Site):
    assert {several.facts(client).examples for client in several.examples} == {32}
    a, b = (several.do(work_of(several, client)) for client in ("client-00", "client-01"))
    assert (a.client, b.client) == ("client-00", "client-01")
    assert a.trained is not None
    assert b.trained is not None
    assert not all(torch.equal(a.trained[name], b.trained[name]) for name in a.trained)


def test_a_client_that_is_not_here_is_refused(several: Site):
    known = "there is no client 'client-9' here; this site holds client-00, client-01, .*client-04, "
    with pytest.raises(ConfigError, match=known):
        several.facts("client-9")
    with pytest.raises(ConfigError, match=known):
        several.do(work_of(several, "client-9"))


def test_one_client_is_called_what_the_server_calls_it(alone: Site):
    """And does the same work under any name."""
    north, south = (alone.do(work_of(alone, name)) for name in ("north", "a/b ü"))
    assert (north.client, south.client) == ("north", "a/b ü")
    assert north.weight == south.weight == alone.facts("whoever").examples == 192
    assert north.trained is not None
    assert south.trained is not None
    assert all(torch.equal(tensor, south.trained[name]) for name, tensor in north.trained.items())


def test_work_is_what_the_engine_makes_of_it(several: Site):
    work = work_of(several, "client-02")
    outcome, (expected,) = several.do(work), several.engine.run([work])
    assert outcome.trained is not None
    assert expected.trained is not None
    assert outcome.trained.keys() == expected.trained.keys() == work.adapter.parts(work.trains).keys()
    assert all(torch.equal(tensor, expected.trained[name]) for name, tensor in outcome.trained.items())
    assert (outcome.weight, outcome.metrics, outcome.problem) == (32.0, expected.metrics, "")
    assert outcome.seconds is not None
    assert outcome.seconds > 0
    assert outcome.scores == {}
    assert outcome.moved is None


def test_what_is_scored_is_what_it_starts_from_and_training_is_the_same(several: Site):
    """With the base change, on the test set of the site, before anything is trained."""
    work = replace(work_of(several, "client-03"), base_change=changed(several.resident.initial(1, 1.0, 4)))
    plain, scored = several.do(work), several.do(replace(work, scored=True))
    assert scored.scores == several.measured(work.adapter, work.base_change, several.test)
    assert scored.scores.keys() == {metric.name for metric in several.task.metrics}
    assert scored.scores != several.measured(work.adapter, None, several.test)
    assert plain.trained is not None
    assert scored.trained is not None
    assert all(torch.equal(tensor, scored.trained[name]) for name, tensor in plain.trained.items())
    assert plain.metrics == scored.metrics


def test_an_adapter_that_does_not_fit_is_refused_by_name_and_the_next_is_trained(several: Site):
    work = work_of(several, "client-00")
    name, factors = next(iter(work.adapter.modules.items()))
    narrow = {**work.adapter.modules, name: Factors(factors.a[:, 1:], factors.b)}
    with pytest.raises(AdapterError, match=name.replace(".", r"\.")):
        several.do(replace(work, adapter=Adapter(narrow, work.adapter.dense)))
    assert several.do(work).trained is not None
