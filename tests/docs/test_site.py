"""The site is built without a warning, is whole, and asks nothing of another host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from polyrank.aggregation import METHODS
from polyrank.config import Config
from tests.report.browser import visit

ROOT = Path(__file__).parents[2]
LOADED = {"script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset")}
"""Attributes of elements that make a browser fetch something at once; `link` is one for some of its kinds."""
FETCHED = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "manifest", "modulepreload"}


@dataclass
class Page:
    """What a page loads, what it links to, and where it can be linked to."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.page.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.page.loads += [found[name] for name in LOADED.get(tag, ()) if name in found]
        if tag == "link" and FETCHED & set(found.get("rel", "").split()):
            self.page.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.page.links.append(found["href"])
        self.page.loads += re.findall(r"url\(([^)]+)\)", found.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` makes it; where MkDocs is not installed the tests are skipped, but not where CI has to."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no MkDocs: make docs installs it")
        pytest.skip("MkDocs is not installed; make docs, or pip install 'polyrank[docs]'")
    made = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(made)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        found[path] = reader.page
    assert len(found) > 40
    return found


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]):
    elsewhere = [
        (path.name, address) for path, page in pages.items() for address in page.loads if is_elsewhere(address)
    ]
    assert elsewhere == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        addresses = [a for a in re.findall(r"url\([\"']?([^)\"']+)", text) if is_elsewhere(a)]
        assert addresses == [], style.name
        assert not re.search(r"@import\s+(url\()?[\"']?(https?:)?//", text)


def is_elsewhere(address: str) -> bool:
    return address.startswith("//") or urlsplit(address.strip()).scheme in ("http", "https", "ws", "wss")


def test_scripts_of_the_theme_have_no_reason_to_ask_another_host(site: Path, pages: dict[Path, Page]):
    """The theme's script would ask GitHub about a repository that is named, and fetch Mermaid where it is used."""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert 'data-md-component="source"' not in text
        assert 'class="mermaid"' not in text
    own = list((site / "assets").glob("*.js"))
    assert {file.name for file in own} == {"aggregate.js", "iframe-worker.js", "try.js"}
    for file in own:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", text), file.name


def test_every_link_and_anchor_is_there(site: Path, pages: dict[Path, Page]):
    wrong = []
    for path, page in pages.items():
        if path.name == "404.html":  # served at any address, so its links begin at the root
            continue
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith(("data:", "//")):
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.is_relative_to(site.resolve()) or not there.exists():
                wrong.append((path.name, link))
            elif parts.fragment and there.suffix == ".html" and not parts.fragment.startswith("__"):
                anchors = pages[site / there.relative_to(site.resolve())].anchors
                if unquote(parts.fragment) not in anchors:
                    wrong.append((path.name, link))
    assert wrong == []


def test_every_method_and_key_has_its_place(site: Path, pages: dict[Path, Page]):
    for method in METHODS:
        assert site / "methods" / f"{method}.html" in pages
        text = (site / "methods" / f"{method}.html").read_text(encoding="utf-8")
        assert re.search(r'<div class="pr-arrival">\s*<svg[^>]*>\s*<text|There is no picture of this', text), method
    text = (site / "configuration.html").read_text(encoding="utf-8")
    for section in Config.model_fields:
        assert f"<code>[{section}]</code>" in text


def test_search_finds_what_the_code_wrote(site: Path):
    """And works from disk, where no file can be fetched: the index is a script too."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    where = {entry["location"].partition("#")[0] for entry in index["docs"] if "replication" in entry["text"]}
    assert {"methods/replication.html", "reference/python.html", "choose.html"} <= where
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    assert "iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


PHONE = 375
SEARCHED = """
new Promise(done => {
  document.querySelector("#__search").click();
  const query = document.querySelector("[data-md-component=search-query]");
  query.focus();
  query.value = "replication";
  query.dispatchEvent(new Event("input", { bubbles: true }));
  query.dispatchEvent(new KeyboardEvent("keyup", { key: "n", bubbles: true }));
  const look = left => {
    const found = [...document.querySelectorAll(".md-search-result__link")].map(link => link.getAttribute("href"));
    if (found.length || !left) done(JSON.stringify(found));
    else setTimeout(look, 200, left - 1);
  };
  look(100);
})
"""
CHOSEN = """
(() => {
  const numbers = () => [...document.querySelectorAll(".pr-number")].map(number => number.textContent);
  const before = numbers(), method = document.querySelector("#try select");
  method.value = "replication";
  method.dispatchEvent(new Event("change"));
  return JSON.stringify([before, numbers(), document.querySelectorAll("#try svg").length]);
})()
"""
REACHED = """
JSON.stringify([...document.querySelectorAll("#try input, #try select, #try button")].map(
  control => [control.tabIndex, control.getAttribute("aria-label") || control.textContent]))
"""


def test_searching_works_from_disk(site: Path):
    seen = visit(site / "index.html", scripts=(SEARCHED,))
    assert seen.complaints == []
    assert any("methods/replication.html" in link for link in json.loads(seen.answers[0]))
    assert {urlsplit(address).scheme for address in seen.requests} <= {"file", "data", "about", "blob"}


@pytest.mark.parametrize("page", ["index", "why", "try", "configuration", "methods/replication", "reference/python"])
def test_pages_fit_a_phone(site: Path, page: str):
    """Nothing but a table scrolls sideways, by itself."""
    seen = visit(site / f"{page}.html", width=PHONE)
    assert seen.complaints == []
    assert seen.seen["needed"] <= PHONE
    assert {urlsplit(address).scheme for address in seen.requests} <= {"file", "data", "about"}


def test_the_page_to_play_with_answers(site: Path):
    """Five clients of ranks 20 and 5: 4 % of their upper products are left, and with replication all."""
    seen = visit(site / "try.html", width=PHONE, scripts=(CHOSEN, REACHED))
    before, after, pictures = json.loads(seen.answers[0])
    assert (before[1], after[1], pictures) == ("4.0 %", "100.0 %", 2)
    assert before[0] != after[0]
    controls = json.loads(seen.answers[1])
    assert len(controls) == 13  # five ranks, five weights, method, gamma, other clients
    assert all(at == 0 and name for at, name in controls)
