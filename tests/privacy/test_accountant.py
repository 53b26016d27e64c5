"""Epsilon is what the library says when it is called by hand."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from polyrank.config import Config, PrivacyConfig
from polyrank.core.errors import ConfigError
from polyrank.privacy import Accountant, settled
from tests.conftest import Configure

GAUSSIAN = dp_accounting.GaussianDpEvent


def accountant(**options: object) -> Accountant:
    values = {"model": "central", "noise": 1.2, "delta": 1e-4, **options}
    return Accountant(PrivacyConfig.model_validate(values), 200, 20)


@pytest.mark.parametrize("rounds", [1, 7])
def test_poisson(rounds: int):
    by_hand = pld.PLDAccountant()
    by_hand.compose(dp_accounting.PoissonSampledDpEvent(0.1, GAUSSIAN(1.2)), rounds)
    assert accountant().epsilon(rounds) == pytest.approx(by_hand.get_epsilon(1e-4), rel=1e-6)


@pytest.mark.parametrize("noise", [1e-6, 0.01, 0.19])
def test_hardly_any_noise_is_counted_without_running_out_of_memory(noise: float):
    assert accountant(noise=noise).epsilon(3) > 20
    options = PrivacyConfig.model_validate({"model": "local", "noise": noise, "delta": 1e-4})
    assert Accountant(options, 4, 2, lambda _: ("ann",)).epsilon(3) > 20


def test_fixed_cohorts_count_an_exchange_of_two_clients_which_is_twice_the_bound():
    by_hand = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    by_hand.compose(dp_accounting.SampledWithoutReplacementDpEvent(200, 20, GAUSSIAN(0.6)), 5)
    assert accountant(sampling="fixed").epsilon(5) == pytest.approx(by_hand.get_epsilon(1e-4), rel=1e-6)


def test_local_noise_counts_for_the_client_that_took_part_most_often():
    options = PrivacyConfig.model_validate({"model": "local", "noise": 9.0, "delta": 1e-4})
    cohorts = {1: ("ann", "bob"), 2: ("bob", "cem"), 3: ("cem", "dee"), 4: ("bob", "dee")}
    found = Accountant(options, 4, 2, lambda number: cohorts[number])
    by_hand = pld.PLDAccountant()
    by_hand.compose(GAUSSIAN(4.5), 3)
    assert found.epsilon(4) == pytest.approx(by_hand.get_epsilon(1e-4), rel=1e-6)
    assert found.epsilon(2) == found.epsilon(3)  # nobody's third time


def test_nothing_is_spent_before_the_first_round():
    assert accountant().epsilon(0) == 0.0


def test_the_default_of_delta_goes_by_the_number_of_clients():
    assert accountant(delta=None).delta == 200**-1.1


@pytest.mark.parametrize(("sampling", "budget"), [("poisson", 3.0), ("fixed", 0.8), ("fixed", 8.0)])
def test_the_least_noise_keeps_the_budget_and_a_little_less_does_not(sampling: str, budget: float):
    noise = accountant(sampling=sampling).least_noise(budget, 10)
    assert accountant(noise=noise, sampling=sampling).epsilon(10) <= budget
    assert accountant(noise=noise * 0.995, sampling=sampling).epsilon(10) > budget


def test_so_many_rounds_are_within_a_budget():
    meter = accountant(sampling="fixed", noise=4.0)
    rounds = meter.rounds_within(1.5, 100)
    assert meter.epsilon(rounds) <= 1.5 < meter.epsilon(rounds + 1)
    assert meter.rounds_within(1e-9, 100) == 0
    assert meter.rounds_within(100, 30) == 30


def private(configure: Configure, *more: str) -> Config:
    return configure("privacy.model=central", "aggregation.weights=uniform", *more)


def test_a_configuration_is_settled(configure: Configure):
    config = private(configure, "privacy.budget=3", "privacy.sampling=fixed", "federation.rounds=4")
    made = settled(config, Accountant(config.privacy, 6, 3))
    assert isinstance(made.privacy.noise, float)
    assert Accountant(made.privacy, 6, 3).epsilon(4) <= 3
    assert made.federation.rounds == 4


def test_rounds_end_with_the_budget(configure: Configure):
    config = private(
        configure, "privacy.budget=3", "privacy.noise=9.0", "privacy.sampling=fixed", "federation.rounds=400"
    )
    made = settled(config, Accountant(config.privacy, 6, 3))
    assert 0 < made.federation.rounds < 400
    assert made.privacy.delta == 6**-1.1


def test_a_budget_without_a_round_is_refused(configure: Configure):
    config = private(configure, "privacy.budget=0.1", "privacy.noise=1.0")
    with pytest.raises(ConfigError, match=r"one round with the noise 1 costs epsilon .* more than 0\.1"):
        settled(config, Accountant(config.privacy, 6, 3))


def test_one_client_needs_a_delta(configure: Configure):
    config = private(configure, "privacy.noise=1.0")
    with pytest.raises(ConfigError, match="found one client"):
        settled(config, Accountant(config.privacy, 1, 1))


def test_a_budget_that_no_noise_keeps_is_refused():
    with pytest.raises(ConfigError, match="no noise below 10000 keeps 500000 rounds"):
        accountant(sampling="fixed", delta=1e-9).least_noise(1e-5, 500_000)
