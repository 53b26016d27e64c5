"""A real headless Chromium, by the protocol of its developer tools."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import choreographer
import pytest
from choreographer.browsers.chromium import ChromeNotFoundError

LOOK = """
JSON.stringify({
  figures: Object.fromEntries([...document.querySelectorAll(".plot")].map(plot => [
    plot.id,
    plot.querySelectorAll("svg.main-svg :is(path.js-line, .point, .heatmaplayer image)").length,
  ])),
  loaded: performance.getEntriesByType("resource").map(entry => entry.name),
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  outside: [...document.querySelectorAll("svg.main-svg")].filter(
    svg => svg.getBoundingClientRect().right > innerWidth + 1).length,
  text: document.body.innerText,
})
"""


@dataclass
class Visit:
    """What a browser saw of a page.

    Args:
        requests: addresses that were asked for, the page's own first.
        complaints: errors, warnings and exceptions of the console.
        seen: what `LOOK` gives.
        answers: of further scripts, which ran after it.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)


def visit(page: Path | str, *, width: int = 1200, scripts: tuple[str, ...] = ()) -> Visit:
    """Open a page from disk, or an address.

    Without a browser the test is skipped, but not where CI has to install one.
    """
    try:
        return asyncio.run(_visit(page, width, scripts))
    except ChromeNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("there is no Chromium or Chrome; Debian: apt install chromium")


async def _visit(page: Path | str, width: int, scripts: tuple[str, ...]) -> Visit:
    made = Visit()

    async def requested(event: Any) -> None:
        made.requests.append(event["params"]["request"]["url"])

    async def logged(event: Any) -> None:
        entry = event["params"]["entry"]
        if entry["level"] in ("error", "warning"):
            made.complaints.append(entry["text"])

    async def called(event: Any) -> None:
        if event["params"]["type"] in ("error", "warning", "assert"):
            made.complaints.append(json.dumps(event["params"]["args"]))

    async def thrown(event: Any) -> None:
        made.complaints.append(json.dumps(event["params"]["exceptionDetails"]))

    async with choreographer.Browser(headless=True) as browser:
        tab = await browser.create_tab("about:blank")
        for name, heard in (
            ("Network.requestWillBeSent", requested),
            ("Log.entryAdded", logged),
            ("Runtime.consoleAPICalled", called),
            ("Runtime.exceptionThrown", thrown),
        ):
            tab.subscribe(name, heard, repeating=True)
        for domain in ("Page", "Network", "Log", "Runtime"):
            await tab.send_command(f"{domain}.enable")
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        await tab.send_command("Emulation.setDeviceMetricsOverride", params=size)
        loaded = tab.subscribe_once("Page.loadEventFired")
        await tab.send_command(
            "Page.navigate", params={"url": page if isinstance(page, str) else page.resolve().as_uri()}
        )
        await asyncio.wait_for(loaded, 120)
        made.seen = json.loads(await _evaluate(tab, LOOK))
        made.answers = [await _evaluate(tab, script) for script in scripts]
    return made


async def _evaluate(tab: Any, script: str) -> Any:
    """After two frames, so that what the load event set off is done."""
    waiting = f"new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done({script.strip()}))))"
    parameters = {"expression": waiting, "awaitPromise": True, "returnByValue": True}
    answer = await tab.send_command("Runtime.evaluate", params=parameters)
    assert "exceptionDetails" not in answer["result"], answer
    return answer["result"]["result"].get("value")
