"""Server optimisers: what a round changed is the direction of a step, and moments of it last from round to round.

With ``d`` the change that a method makes of a tensor in a round, number by number::

    momentum:  m <- beta1 m + d                                   x <- x + lr m
    the rest:  m <- beta1 m + (1 - beta1) d                       x <- x + lr m / (sqrt(v) + tau)
    adagrad:   v <- v + d^2
    adam:      v <- beta2 v + (1 - beta2) d^2
    yogi:      v <- v - (1 - beta2) d^2 sign(v - d^2)

``m`` begins at 0 and ``v`` at ``tau^2``, and neither is corrected for that. Sources: Hsu et al. 2019 (FedAvgM) for
momentum, Reddi et al. 2021, algorithm 2, for the rest. That a row of A or a column of B which a round did not change
stays as it is, values and moments, as in lazy optimisers, is ours: its owners did not come, and have nothing to say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyrank.core.errors import ConfigError
from polyrank.core.registry import Registry


class Optimiser(ABC):
    """A server optimiser: a frozen dataclass whose fields are its options.

    Raises:
        ConfigError: an option is out of its range.
    """

    name: ClassVar[str]
    """Its name, as written in a configuration."""
    adaptive: ClassVar[bool] = True
    """Whether its steps are about as long as the learning rate, however small the change."""

    def __post_init__(self) -> None:
        for option, value in asdict(self).items():  # type: ignore[call-overload]  # they are dataclasses
            if option == "tau" and not 0 < value < math.inf:
                raise ConfigError(f"server optimiser {self.name}: tau is {value}; expected a number above 0")
            if option != "tau" and not 0 <= value < 1:
                raise ConfigError(
                    f"server optimiser {self.name}: {option} is {value}; expected a number of 0 or more and below 1"
                )

    @abstractmethod
    def begin(self, like: Tensor) -> dict[str, Tensor]:
        """The moments of a tensor before the first round."""

    @abstractmethod
    def step(self, change: Tensor, before: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The step, without the learning rate, and the moments after it.

        Args:
            change: what the method changed.
            before: the moments before the round.
        """


@dataclass(frozen=True)
class Momentum(Optimiser):
    """The changes of all rounds, older ones less: FedAvgM.

    Args:
        beta1: what is left of the last round's step; 0 for none.
    """

    name: ClassVar[str] = "momentum"
    adaptive: ClassVar[bool] = False
    beta1: float = 0.9

    def begin(self, like: Tensor) -> dict[str, Tensor]:
        return {"m": torch.zeros_like(like)}

    def step(self, change: Tensor, before: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        m = self.beta1 * before["m"] + change
        return m, {"m": m}


class Adaptive(Optimiser):
    """An optimiser whose steps are divided by the size of past changes, each number by its own."""

    beta1: float
    tau: float

    @abstractmethod
    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        """The next ``v``, of the last one and the squared change."""

    def begin(self, like: Tensor) -> dict[str, Tensor]:
        return {"m": torch.zeros_like(like), "v": torch.full_like(like, self.tau**2)}

    def step(self, change: Tensor, before: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        m = self.beta1 * before["m"] + (1 - self.beta1) * change
        v = self.second(before["v"], change.square())
        return m / (v.sqrt() + self.tau), {"m": m, "v": v}


@dataclass(frozen=True)
class Adagrad(Adaptive):
    """Divided by the root of the sum of all squared changes: FedAdagrad.

    Args:
        beta1: of the mean of the changes; 0 for the last one alone, as in the paper.
        tau: added to the root; smaller is more adaptive.
    """

    name: ClassVar[str] = "adagrad"
    beta1: float = 0.0
    tau: float = 1e-3

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        return v + squared


@dataclass(frozen=True)
class Adam(Adaptive):
    """Divided by the root of a moving mean of squared changes: FedAdam.

    Args:
        beta1: of the moving mean of the changes.
        beta2: of that of their squares.
        tau: as in `Adagrad`.
    """

    name: ClassVar[str] = "adam"
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * squared


@dataclass(frozen=True)
class Yogi(Adam):
    """Adam with a ``v`` that moves by no more than the squared change: FedYogi.

    Args:
        beta1: as in `Adam`.
        beta2: as in `Adam`.
        tau: as in `Adagrad`.
    """

    name: ClassVar[str] = "yogi"

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        return v - (1 - self.beta2) * squared * torch.sign(v - squared)


_CLASSES: tuple[type[Optimiser], ...] = (Momentum, Adagrad, Adam, Yogi)

OPTIMISERS: Registry[Optimiser] = Registry("server optimiser", {cls.name: cls for cls in _CLASSES})
