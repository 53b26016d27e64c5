"""The page in a real browser: it grows by itself, keeps what a reader did, and says when nothing is to come."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from polyrank.report.live import board
from polyrank.report.live.server import Server
from polyrank.runs.folder import RunFolder
from tests.report.browser import visit
from tests.report.folders import write_run

Watching = Callable[..., Server]
HOSTILE = "<img src=http:x onerror=console.error(1)>"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks five times a second, whatever it takes to make it."""
    monkeypatch.setattr(board, "SOONEST", 0.2)
    monkeypatch.setattr(board, "SHARE", 0)


def until(condition: str, answer: str = "true") -> str:
    """A script that waits for a condition and then gives an answer."""
    return f"""new Promise((done, failed) => {{
      const start = Date.now();
      const look = setInterval(() => {{
        if ({condition}) {{ clearInterval(look); done({answer}); }}
        else if (Date.now() - start > 60000) {{ clearInterval(look); failed(new Error("{"waited in vain"}")); }}
      }}, 50);
    }})"""


def written(folder: Path, rounds: Sequence[int]) -> None:
    """More lines as the last one, a round of each number."""
    files = RunFolder(folder)
    line = json.loads(files.metrics.read_text(encoding="utf-8").splitlines()[-1])
    for number in rounds:
        files.append_metrics({**line, "round": number})


def later(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act once something holds; the tests' browser has this thread to itself."""

    def wait() -> None:
        while not condition():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


POINTS = """(document.querySelector("#figure-accuracy-rounds")?.data?.[0].x.length ?? 0)"""


@pytest.mark.parametrize("width", [1200, 390])
def test_every_figure_is_drawn_and_nothing_is_asked_of_another_host(watching: Watching, tmp_path: Path, width: int):
    dropped = {2: {"client-1": f"a norm of {HOSTILE}"}}
    write_run(tmp_path / HOSTILE, rounds=2, planned=5, dropped=dropped, labels=(HOSTILE, "b", "c"))
    write_run(tmp_path / "b", "zero_padding", rounds=3, planned=5, labels=(HOSTILE, "b", "c"))
    server = watching(tmp_path / HOSTILE, tmp_path / "b", tmp_path / "to-come")
    wide = "document.documentElement.scrollWidth"
    visited = visit(
        server.url, width=width, scripts=(until("document.body.dataset.asked > 2"), wide, "document.body.innerText")
    )
    assert visited.complaints == []
    asked = [address for address in visited.requests if not address.startswith(("data:", "blob:"))]
    assert asked[0] == server.url
    assert all(address.startswith(f"{server.url}now?have=") for address in asked[1:])
    assert len(visited.seen["figures"]) == 13
    assert all(visited.seen["figures"].values()), visited.seen["figures"]
    assert visited.seen["needed"] <= width
    assert visited.answers[1] <= width
    assert visited.seen["outside"] == 0
    for said in (HOSTILE, f"a norm of {HOSTILE}", "not begun yet", "round 2 of 5", "Follows the runs by itself."):
        assert said in visited.answers[2]


def test_a_run_that_had_not_begun_grows_under_the_reader(watching: Watching, tmp_path: Path):
    """What is open, hidden, focused and scrolled to stays as it was, and the page ends with the run.

    A card above may need a line more; the browser scrolls by it, so that what is read does not move.
    """
    folder = tmp_path / "a"
    server = watching(folder)
    asked = threading.Event()
    original = server.board().now

    def now(have: str) -> dict[str, object]:
        asked.set()
        return original(have)

    server.board().now = now  # type: ignore[method-assign]
    started = later(asked.is_set, lambda: write_run(folder, rounds=2, planned=5) and None)
    grow = later((folder / "grow").exists, lambda: written(folder, [3, 4]))
    end = later((folder / "end").exists, lambda: finished(folder))
    act = """(() => {
      document.querySelector("#configuration ~ details summary").click();
      document.querySelector(".runs details summary").click();
      document.querySelector("#ranks ~ .scroll").focus();
      document.querySelector("#collapse").scrollIntoView();
      window.place = () => document.querySelector("#collapse").getBoundingClientRect().top;
      window.before = [place(), document.activeElement, document.querySelector("#figure-accuracy-rounds")];
      return scrollY > 500;
    })()"""
    kept = """[
      Math.abs(place() - before[0]) < 1, document.activeElement === before[1],
      document.querySelector("#figure-accuracy-rounds") === before[2],
      document.querySelector("#configuration ~ details").open, document.querySelector(".runs details").open,
    ]"""
    touch = Touching(folder)
    scripts = (
        until(f"{POINTS} === 2", POINTS),
        act,
        until("document.body.dataset.asked > 3"),
        until(touch(server, "grow", f"{POINTS} === 4"), POINTS),
        kept,
        until(touch(server, "end", "document.querySelector('#live').textContent.includes('All runs have ended')")),
        "document.body.innerText",
    )
    visited = visit(server.url, scripts=scripts)
    for thread in (started, grow, end):
        thread.join(10)
    assert visited.complaints == []
    assert visited.answers[0] == 2
    assert visited.answers[1]
    assert visited.answers[3] == 4
    assert visited.answers[4] == [True] * 5
    assert "ended after 5 rounds" in visited.answers[6]


class Touching:
    """Makes a condition of a script that, once it is looked at, has the test go on: by an address with a name in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, server: Server, name: str, condition: str) -> str:
        original = server.board().now

        def now(have: str) -> dict[str, object]:
            if have == name:
                (self.folder / name).touch()
            return original(have)

        server.board().now = now  # type: ignore[method-assign]
        return f"(window['{name}'] ??= fetch('now?have={name}')) && {condition}"


def finished(folder: Path) -> None:
    written(folder, [5])
    RunFolder(folder).write_json("summary", {"rounds": 5, "seconds": 7.5})


def test_it_says_when_nobody_answers(watching: Watching, tmp_path: Path):
    write_run(tmp_path / "a", rounds=2, planned=5)
    server = watching(tmp_path / "a")
    later(
        lambda: server.board().search.watched != {}, lambda: time.sleep(1) or server.shutdown() or server.server_close()
    )
    gone = until("document.querySelector('#live.gone')", "document.querySelector('#live').textContent")
    text = visit(server.url, scripts=(gone,)).answers[0]
    assert "does not answer: this is as it was at" in text
    assert "Start it again" in text


def test_a_hidden_method_stays_hidden(watching: Watching, tmp_path: Path):
    write_run(tmp_path / "a", rounds=2, planned=5)
    write_run(tmp_path / "b", "zero_padding", rounds=2, planned=5)
    server = watching(tmp_path / "a", tmp_path / "b")
    click = """document.querySelector('.legend button[data-group="replication"]').click()"""
    shown = """document.querySelectorAll("#figure-accuracy-rounds .js-line").length"""
    later((tmp_path / "grow").exists, lambda: written(tmp_path / "b", [3]))
    grown = "Math.max(...document.querySelector('#figure-accuracy-rounds').data.map(trace => trace.x.length)) === 3"
    go = Touching(tmp_path)(server, "grow", grown)
    before, _, hidden, _, after = visit(server.url, scripts=(shown, click, shown, until(go), shown)).answers
    assert hidden < before
    assert after == hidden
