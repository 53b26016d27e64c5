"""How much privacy the rounds of a run cost, by the library `dp-accounting`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from polyrank.config import Config, PrivacyConfig
from polyrank.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGITS = 4
"""Significant digits to which a multiplier that was looked for is rounded, upwards."""
LEAST_OF_LOSSES = 0.2
"""The least multiplier for privacy loss distributions, whose memory grows without bound below; divergences do."""
HIGHEST = 1e4
"""The highest multiplier that is looked for."""


@dataclass(frozen=True)
class Accountant:
    """Epsilon after so many rounds.

    What is counted is the Gaussian mechanism with the noise multiplier ``noise``: its standard deviation over
    ``clip``. ``central`` with ``poisson``: two federations are neighbours if one has one client more; a round is a
    Poisson-sampled Gaussian, and rounds are composed by privacy loss distributions. ``fixed``: neighbours have one
    client exchanged, which changes the sum by up to twice the clip, and Renyi divergences for sampling without
    replacement are composed. ``local``: one client's data are exchanged for any others, which changes what it sends by
    up to twice the clip; nothing is sampled in the eyes of the server, and the client that took part most often counts.

    Args:
        options: with a number for ``noise`` and for ``delta``.
        clients: in the federation.
        cohort: clients of a round; with ``poisson`` expected.
        cohorts: round -> its clients, where it matters who took part.
        before: local: updates that every client sends before the first round, so that it can be scored.
    """

    options: PrivacyConfig
    clients: int
    cohort: float
    cohorts: Callable[[int], Iterable[str]] = field(default=lambda _: (), compare=False)
    before: int = 0

    @property
    def delta(self) -> float:
        """The probability that goes with epsilon."""
        return self.options.delta or self.clients**-1.1

    def epsilon(self, rounds: int) -> float:
        """Epsilon after the first ``rounds`` rounds and what was sent before them, at ``delta``; 0 of nothing."""
        count = self._times(rounds)
        if count == 0:
            return 0.0
        assert self.options.noise != "auto"
        return self._epsilon(self.options.noise, count)

    def least_noise(self, budget: float, rounds: int) -> float:
        """The least multiplier with which so many rounds stay within a budget.

        Raises:
            ConfigError: there is none below 10,000.
        """
        count = self._times(rounds)
        low, high = 0.0, 1.0
        while self._epsilon(high, count) > budget:
            low, high = high, 2 * high
            if high > HIGHEST:
                raise ConfigError(
                    f"privacy.budget: no noise below {HIGHEST:g} keeps {rounds} rounds within {budget:g} at delta "
                    f"{self.delta:.2g}; expected a greater budget or delta, or fewer rounds"
                )
        while high - low > 10 ** (math.floor(math.log10(high)) + 1 - DIGITS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._epsilon(middle, count) <= budget else (middle, high)
        step = 10.0 ** (math.floor(math.log10(high)) + 1 - DIGITS)
        return round(math.ceil(high / step) * step, 12)

    def rounds_within(self, budget: float, most: int) -> int:
        """How many rounds stay within a budget, at most ``most``."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle) <= budget else (low, middle - 1)
        return low

    def _times(self, rounds: int) -> int:
        """How often the mechanism was used; for ``local`` on the client that took part most often."""
        if self.options.model == "central":
            return rounds
        times = Counter(client for number in range(1, rounds + 1) for client in self.cohorts(number))
        return self.before + max(times.values(), default=0)

    def _epsilon(self, noise: float, count: int) -> float:
        dpa, options = _library(self.options.model), self.options
        replaced = options.model == "local" or options.sampling == "fixed"
        gaussian = dpa.GaussianDpEvent(noise / 2 if replaced else noise)
        if options.model == "central" and options.sampling == "fixed":
            accountant = dpa.rdp.RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_ONE)
            used = dpa.SampledWithoutReplacementDpEvent(self.clients, round(self.cohort), gaussian)
            return float(accountant.compose(used, count).get_epsilon(self.delta))
        share = 1.0 if options.model == "local" else self.cohort / self.clients
        if noise >= LEAST_OF_LOSSES:
            once = _losses(gaussian.noise_multiplier, share)
            return float(once.self_compose(count).get_epsilon_for_delta(self.delta))
        used = gaussian if share == 1.0 else dpa.PoissonSampledDpEvent(share, gaussian)
        return float(dpa.rdp.RdpAccountant().compose(used, count).get_epsilon(self.delta))


@lru_cache(maxsize=4)
def _losses(multiplier: float, share: float) -> Any:  # Any: of a module without types
    """The privacy losses of one round, which take longest to compute; the rounds are composed of them."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(multiplier, sampling_prob=share)


def _library(model: str) -> Any:  # Any: a module without types
    """The library.

    Raises:
        ConfigError: it is not there.
    """
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise ConfigError(
            f"privacy.model {model} needs dp-accounting, which cannot be imported ({error}): "
            "pip install 'polyrank[privacy]'"
        ) from None
    return dp_accounting


def settled(config: Config, meter: Accountant) -> Config:
    """The configuration of a private run with numbers for noise and delta, and no more rounds than the budget allows.

    Args:
        config: of the run.
        meter: of its clients.

    Raises:
        ConfigError: the budget does not last for one round.
    """
    if meter.clients < 2 and config.privacy.delta is None:
        raise ConfigError("privacy: found one client; expected several, or a value for privacy.delta")
    options = config.privacy.model_copy(update={"delta": meter.delta})
    rounds = config.federation.rounds
    if options.noise == "auto":
        assert options.budget is not None
        options = options.model_copy(update={"noise": meter.least_noise(options.budget, rounds)})
    elif options.budget is not None:
        rounds = meter.rounds_within(options.budget, rounds)
        if rounds == 0:
            raise ConfigError(
                f"privacy.budget: one round with the noise {options.noise:g} costs epsilon "
                f"{meter.epsilon(1):.3g} at delta {meter.delta:.2g}, more than {options.budget:g}; expected more noise "
                "or a greater budget"
            )
    federation = config.federation.model_copy(update={"rounds": rounds})
    return config.model_copy(update={"privacy": options, "federation": federation})
