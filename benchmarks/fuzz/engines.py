"""Who draws the choices of which inputs are made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.fuzz.session import Session

BATCH = 2000
"""Inputs after which Hypothesis begins anew: it remembers all that it drew."""


def hypothesis(session: Session, count: int, seed: int, save: Callable[[], None]) -> None:
    """So many inputs by Hypothesis; the same ones for the same seed."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    number = 0
    while session.tried < count and number < 2 * count // BATCH + 2:
        asked = min(BATCH, count - session.tried)

        @settings(
            max_examples=asked,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @seeded(seed + number)
        @given(st.randoms(use_true_random=False))
        def batch(random: Random) -> None:
            session(random)
            if session.tried % 50 == 0:
                save()

        batch()
        save()
        number += 1


class _Bytes(Random):
    """Draws what some bytes say, and zeros after their end."""

    def __new__(cls, _data: bytes) -> _Bytes:  # Random's own takes a seed
        return super().__new__(cls)

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        super().__init__()

    def _take(self, size: int) -> int:
        found = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(found, "big") << (8 * (size - len(found)))

    def random(self) -> float:
        """A number from 0 to below 1."""
        return self._take(2) / 2**16

    def getrandbits(self, k: int, /) -> int:
        """A number of so many bits."""
        return self._take((k + 7) // 8) >> (-k % 8) if k else 0

    def seed(self, *_: Any) -> None:  # Any: as Random has it
        """There is none."""


def atheris(session: Session, count: int, seed: int, save: Callable[[], None]) -> None:
    """So many inputs by Atheris, which keeps bytes that reach new code; it ends the process."""
    import atheris as engine  # type: ignore[import-not-found]  # optional

    def one(data: bytes) -> None:
        session(_Bytes(data))
        if session.tried % 50 == 0 or session.tried >= count:
            save()

    options = [f"-atheris_runs={count}", f"-seed={seed % 2**31 + 1}", "-max_len=512", "-timeout=0", "-rss_limit_mb=0"]
    engine.Setup([sys.argv[0], *options], one)
    engine.Fuzz()


@contextmanager
def _instrumented() -> Iterator[None]:
    """Our modules tell Atheris what they reach when they are imported in the block."""
    import atheris as engine  # type: ignore[import-not-found]  # optional

    with engine.instrument_imports(include=["polyrank"]):
        yield


PREPARED: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "hypothesis": nullcontext,
    "atheris": _instrumented,
}
"""What stands around the import of what is tried."""
ENGINES: Mapping[str, Callable[[Session, int, int, Callable[[], None]], None]] = {
    "hypothesis": hypothesis,
    "atheris": atheris,
}
