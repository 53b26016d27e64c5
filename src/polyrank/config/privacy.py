"""Differential privacy of the clients, as it is asked for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from polyrank.config.section import Count, Section

Leak = Literal["ranks", "metrics"]


class PrivacyConfig(Section):
    """``[privacy]``: that what is released tells next to nothing of any one client."""

    model: Literal["none", "central", "local"] = "none"
    """``central``: the server is trusted, and adds noise to the sum; ``local``: every client adds noise to what it
    sends; needs ``polyrank[privacy]``."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of all that a client changes in a round, factors and head together, at the global scale."""
    noise: float | Literal["auto"] = "auto"
    """Standard deviation of the noise, in units of ``clip``; ``auto``: the least with which ``budget`` lasts for all
    rounds."""
    budget: float | None = Field(default=None, gt=0)
    """Epsilon; the run ends before the round that would go beyond it."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """The probability that goes with epsilon; by default ``clients ** -1.1``."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """central: how a round's clients are drawn. ``poisson``: each one takes part with the probability
    ``federation.participation``; ``fixed``: so many of them, whoever they are, which costs more noise."""
    most_examples: Count | None = None
    """central: a client of so many examples weighs 1, of fewer less; without it ``aggregation.weights`` must be
    uniform."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """central: ``clip`` follows the norm that this share of the clients stays below; it is where it starts."""
    accept: list[Leak] = []
    """What may be told of clients beside the noised sum: ``ranks`` that a policy made of their data, and ``metrics`` of
    each round's clients."""

    @field_validator("noise")
    @classmethod
    def _some_noise(cls, value: float | str) -> float | str:
        if value != "auto" and not (isinstance(value, float) and value > 0):
            raise ValueError(f"found {value!r}; expected a number above 0, or auto")
        return value

    @field_validator("accept")
    @classmethod
    def _once(cls, value: list[Leak]) -> list[Leak]:
        return list(dict.fromkeys(value))

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.model != "none" and self.noise == "auto" and self.budget is None:
            raise ValueError("neither noise nor budget is given; expected one of them")
        fields = type(self).model_fields
        given = [key for key in fields if getattr(self, key) != fields[key].get_default(call_default_factory=True)]
        if self.model == "none" and given:
            raise ValueError(
                f"model is none, and {', '.join(given)} is set: nothing would be private; expected model central or "
                "local, or none of the other keys"
            )
        return self
