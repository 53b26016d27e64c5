"""Local privacy: a client clips and noises what it sends, so that nobody else has to be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from polyrank.core.adapter import Adapter, Part
from polyrank.privacy.noise import add_gaussian, generator, new_secret


@dataclass(frozen=True)
class Guard:
    """What a client does to its update before it leaves.

    Args:
        clip: largest norm of what it changed, factors and head together, with B at the scale ``scale``.
        noise: standard deviation of the noise on each value, in units of ``clip``.
        scale: of the global adapter.
        metrics: whether what was measured in training may be sent too.
        keeps: parts of the adapter that are not sent, and stay as they were trained.
        secret: that the noise is drawn from; empty for one of the client's own, which nobody else knows.
    """

    clip: float
    noise: float
    scale: float
    metrics: bool = False
    keeps: frozenset[Part] = frozenset()
    secret: str = field(default="", repr=False)

    def hide(self, trained: Mapping[str, Tensor], start: Adapter, purpose: tuple[str, int]) -> dict[str, Tensor]:
        """What was trained, as it may be sent: what it began with, the clipped change, and noise; what stays, as it is.

        Args:
            trained: tensors by the names of `Adapter.tensors`.
            start: what the training began with.
            purpose: whose update it is, and of which round.
        """
        began, secret = dict(start.tensors()), self.secret or new_secret()
        kept = start.parts(self.keeps)
        units = {name: self._unit(name, start) for name in trained if name not in kept}
        changes = {name: (trained[name].double() - began[name].double()) * unit for name, unit in units.items()}
        norm = math.sqrt(sum(float(change.square().sum()) for change in changes.values()))
        sent = {name: tensor for name, tensor in trained.items() if name in kept}
        for name, change in changes.items():
            hidden = change * min(1.0, self.clip / norm) if norm > 0 else change
            add_gaussian(hidden, self.noise * self.clip, generator(secret, "local", *purpose, name))
            sent[name] = (began[name].double() + hidden / units[name]).to(trained[name].dtype)
        return sent

    def _unit(self, name: str, start: Adapter) -> float:
        """What a change counts: that of B its own scale over the global one, so that it is the global B's; else 1."""
        module, _, factor = name.rpartition(".")
        if factor == "b" and module in start.modules:
            return start.modules[module].scale / self.scale
        return 1.0
