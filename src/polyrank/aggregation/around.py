"""A method around another one: what it does not change is that one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polyrank.aggregation.method import Download, Method, MethodInfo, Needs, Parts
from polyrank.core.state import ServerState


class Around(Method):
    """A method around another one, its field ``method``: what it does not change is that one's."""

    method: Method

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """Those of the method."""
        return self.method.info

    @property
    def hides_who_came(self) -> bool:
        return self.method.hides_who_came

    def options(self) -> Mapping[str, Any]:  # Any: of the methods
        """Its own, and those of the method as the method tells them."""
        return {**super().options(), "method": self.method.options()}

    def needs(self, count: int) -> Needs:
        return self.method.needs(count)

    def parts(self, round_number: int) -> Parts:
        return self.method.parts(round_number)

    def indices(self, server: ServerState, client: str, ranks: Mapping[str, int]) -> Mapping[str, Tensor]:
        return self.method.indices(server, client, ranks)

    def scaled_up(self, rank: int, of: int) -> float:
        return self.method.scaled_up(rank, of)

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:
        return self.method.read_out(server, rank, client)

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:
        return self.method.change_rank(before, clients, top)
