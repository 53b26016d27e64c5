from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.cli.conftest import Polyrank
from tests.interrupts import heard
from tests.report.folders import write_run

ROUNDS = 200
"""Of a tiny model: they last longer than a browser takes to start, on a busy machine too."""


def start(*arguments: str | Path) -> tuple[subprocess.Popen[str], str]:
    """The command, and the address that it printed."""
    line = [sys.executable, "-m", "polyrank", "watch", *map(str, arguments)]
    with heard():
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().removeprefix("page: ").strip()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_the_address_answers_and_ends_with_one_line(tmp_path: Path, end: signal.Signals):
    write_run(tmp_path / "a", rounds=2, planned=3)
    process, url = start(tmp_path / "a", tmp_path / "to-come")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
    with build_opener(ProxyHandler({})).open(url, timeout=120) as answer:
        text = answer.read().decode()
    assert "round 2 of 3" in text
    assert "not begun yet" in text
    process.send_signal(end)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "stopped watching; the runs go on\n")


def test_what_a_user_did_is_one_clear_line(polyrank: Polyrank, tmp_path: Path):
    (tmp_path / "file").touch()
    for arguments, said in (
        (["file"], "file is a file; expected a run folder"),
        (["a", "--port", "70000"], "70000"),
        ([], "Missing argument"),
    ):
        found = polyrank("watch", *arguments)
        assert found.code == 2
        assert said in found.err
        assert "Traceback" not in found.err


@pytest.mark.slow
def test_a_run_that_goes_on_grows_in_the_browser(own_things: Path, tmp_path: Path):
    """Started before the run has a folder; the numbers of points that the curve had, until all has ended."""
    from tests.report.browser import visit

    process, url = start(tmp_path / "run")
    command = [sys.executable, "-m", "polyrank", "run", str(own_things / "study.toml"), "--out", str(tmp_path / "run")]
    training = subprocess.Popen([*command, "--set", f"federation.rounds={ROUNDS}"], stdout=subprocess.DEVNULL)
    seen = """new Promise(done => {
      const seen = new Set();
      const look = setInterval(() => {
        seen.add(document.querySelector("#figure-accuracy-rounds")?.data?.[0].x.length ?? 0);
        if (document.querySelector("#live").textContent.startsWith("All runs have ended"))
          { clearInterval(look); done([...seen]); }
      }, 50);
    })"""
    try:
        began = time.monotonic()
        visited = visit(url, scripts=(seen, "document.body.innerText"))
        assert visited.complaints == []
        counts, text = visited.answers
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert counts[-1] == ROUNDS
        assert len(counts) > 2, (counts, time.monotonic() - began)
        assert f"ended after {ROUNDS} rounds" in text
    finally:
        training.wait(300)
        process.terminate()
        process.communicate(timeout=60)
