"""The section ``[secure]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polyrank.config.section import Section


class SecureConfig(Section):
    """``[secure]``: sums over a round's clients of which the server sees no client's part."""

    enabled: bool = False
    """Whether clients mask what they contribute, so that the server learns their sum and nothing else of it."""
    clip: float = Field(default=16.0, gt=0)
    """The largest magnitude of a trained value; a client of a smaller weight than ``max_weight`` may have larger ones,
    in proportion. One that has more sends nothing and says in which tensor."""
    max_weight: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """The largest weight of a client; a client of a larger one sends nothing. ``auto``: that of the largest client."""
    bits: Literal[32, 64] = 32
    """Of a number on its way. The sum of a value is off by at most half a step per client, and a step is about
    ``clip * max_weight * clients / 2 ** (bits - 1)``."""
    survivors: float = Field(default=0.67, gt=0.5, le=1)
    """Share of a round's clients, rounded up, that must come to its end; with fewer nothing is revealed and the round
    is repeated. So many can also open what the others hide, if they and the server agree to."""
    min_owners: int = Field(default=2, ge=1)
    """Clients without whom a rank index is not summed: fewer leave out theirs. 1 shows the rows of a client that alone
    has its rank."""
