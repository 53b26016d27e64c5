"""The page of a report for runs that go on, in parts of which a browser takes those that changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.core.errors import PolyRankError
from polyrank.report import page
from polyrank.report.html import bullets, element, wrapped
from polyrank.report.live import state
from polyrank.report.live.reading import Search
from polyrank.report.runs import Run, grouped
from polyrank.report.statistics import compare

log = logging.getLogger(__name__)

SOONEST, LATEST = 2.0, 60.0
"""Seconds between two questions of a browser."""
SHARE = 10
"""How many times as long as making the page took nobody asks again: at most a tenth of a core."""
SETTLED = 300.0
"""Seconds without a change after which no run is expected any more in a folder that holds several."""
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""As of a report, but for questions to the own server; a script without the nonce, whoever wrote it, is not run."""


@dataclass(frozen=True)
class Made:
    """What was made of the runs.

    Args:
        version: another one for each.
        about: HTML, what a report has above its first table.
        main: HTML, the rest of it.
        seconds: that it took.
    """

    version: int
    about: str
    main: str
    seconds: float


class Board:
    """The page of some run folders, which is made anew when one of their files changed and somebody asks."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.search = Search(folders)
        self._made = Made(0, "", "", 0.0)
        self._lock = threading.Lock()

    def page(self, nonce: str) -> str:
        """All of it, with scripts that carry the nonce."""
        now = self.now("")
        header = [
            element("h1", "PolyRank watch"),
            element("p", "", id="live", role="status"),
            wrapped("div", now["now"], id="now"),
            wrapped("div", now["about"], id="about"),
        ]
        names = ", ".join(one.name for one in self.search.watched.values())
        policy, script = POLICY.format(nonce=nonce), page.beside("live/watch.js")
        main = wrapped("div", now["main"], id="report")
        return page.framed(f"PolyRank: {names}", "\n".join(header), main, policy=policy, nonce=nonce, more=script)

    def now(self, have: str) -> dict[str, Any]:  # Any: JSON values
        """The runs as they are now: cards always, the report's parts if they are not of the version that is there.

        Args:
            have: the version that is there.
        """
        with self._lock:
            if self.search.look() or not self._made.version:
                self._made = self._make()
            made, watched, now = self._made, list(self.search.watched.values()), time.time()
            found = {
                "version": str(made.version),
                "wait": min(max(SOONEST, SHARE * made.seconds), LATEST),
                "ended": self._ended(now),
                "now": state.cards(watched, now),
            }
            return found if have == found["version"] else {**found, "about": made.about, "main": made.main}

    def _ended(self, now: float) -> bool:
        watched = self.search.watched.values()
        settled = not self.search.holds or all(now - one.changed > SETTLED for one in watched)
        return bool(watched) and all(one.ended for one in watched) and settled

    def _make(self) -> Made:
        start = time.perf_counter()
        runs = [one.run for one in self.search.watched.values() if one.run is not None and one.run.evaluated]
        try:
            about, main = _parts(runs)
        except PolyRankError as error:
            about, main = element("p", f"No figures: {error}", class_="answer"), ""
        except Exception as error:  # the cards still say how far the runs are
            log.exception("the figures cannot be drawn")
            about, main = element("p", f"No figures: {type(error).__name__}: {error}", class_="answer"), ""
        return Made(self._made.version + 1, about, main, time.perf_counter() - start)


def _parts(runs: Sequence[Run]) -> tuple[str, str]:
    if not runs:
        return element("p", "No round was evaluated yet. Figures appear after the first one.", class_="answer"), ""
    shown, refused = _together(runs)
    groups = grouped(shown)
    comparison = compare(groups)
    notices = wrapped("div", bullets(refused), class_="notices") if refused else ""
    return page.about(groups, comparison) + notices, page.body(Path.cwd() / "page", groups, comparison)


def _together(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that can stand side by side with the first one, and why the others cannot."""
    try:
        grouped(runs)
    except PolyRankError:
        pass
    else:
        return list(runs), []
    shown: list[Run] = []
    refused: list[str] = []
    for run in runs:
        try:
            grouped([*shown, run])
        except PolyRankError as error:
            refused.append(f"{run.path.name} is not in the figures: {error}. Watch it by itself.")
        else:
            shown.append(run)
    return shown, refused
